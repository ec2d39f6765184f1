//! The `--name value` pairs of one command, and the librdkafka configuration that they describe.
//! A name that is given twice keeps both values only where a list is meant (`--set`, `--config`); elsewhere the last one counts.
//! It never fills in a default for something that a figure depends on: records, sizes and rates must be given.

use rdkafka::ClientConfig;
use std::str::FromStr;

pub struct Arguments {
    pairs: Vec<(String, String)>,
}

impl Arguments {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut pairs = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("expected --name, found {word:?}"))?;
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            pairs.push((name.to_owned(), value));
        }
        Ok(Self { pairs })
    }

    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.pairs
            .iter()
            .rfind(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| format!("--{name} is missing"))
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("--{name} {text:?} is not a number in range"))
    }

    pub fn number_or<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, String> {
        if self.text(name).is_ok() { self.number(name) } else { Ok(otherwise) }
    }

    /// The `name=value` pairs of a repeated option.
    pub fn settings<'a>(&'a self, name: &'a str) -> Result<Vec<(&'a str, &'a str)>, String> {
        self.all(name)
            .map(|pair| pair.split_once('=').ok_or_else(|| format!("--{name} {pair:?} lacks a =")))
            .collect()
    }

    /// The one topic that `--topic` names, or with `--topics N` its N numbered ones.
    pub fn topics(&self) -> Result<Vec<String>, String> {
        let name = self.text("topic")?;
        Ok(match self.number_or("topics", 0)? {
            0 => vec![name.to_owned()],
            count => (0..count).map(|n: usize| format!("{name}-{n}")).collect(),
        })
    }

    /// librdkafka's own defaults, the bootstrap address, and whatever `--set` says.
    pub fn client(&self) -> Result<ClientConfig, String> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.text("bootstrap")?);
        config.set("client.id", "ottla-bench");
        for (name, value) in self.settings("set")? {
            config.set(name, value);
        }
        Ok(config)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}
