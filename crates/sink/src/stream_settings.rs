//! `[nearline]` with `stream`: where the streams are, how they are called, and how long they get.

use std::fmt;

use crate::positions::{Positions, REDIS};
use crate::settings::{Problem, Section};

/// The near-real-time line into streams of a Redis. The address may have a password in it: it is shown by nothing here.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// The Redis.
    pub address: String,
    /// What the streams' names begin with.
    pub prefix: String,
    /// How many entries a stream keeps, about; all of them if it is not said.
    pub len_max: Option<u64>,
}

impl fmt::Debug for StreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, len_max, .. } = self;
        f.debug_struct("StreamSettings")
            .field("prefix", prefix)
            .field("len_max", len_max)
            .finish_non_exhaustive()
    }
}

pub(crate) fn stream(mut section: Section<'_>) -> Result<StreamSettings, Problem> {
    let address = section.parsed("stream", String::new(), |text| match text.parse() {
        Ok(Positions::Redis(address)) => Ok(address),
        // What is refused is not repeated: it may have a password in it.
        _ => Err(format!("it is no address of a Redis; {REDIS} is one")),
    })?;
    let prefix = section.parsed("stream_prefix", "ottla:stream".to_owned(), prefix)?;
    let len_max = match section.get("stream_max_len") {
        Some(_) => Some(section.number("stream_max_len", 1)?),
        None => None,
    };
    section.end()?;
    Ok(StreamSettings { address, prefix, len_max })
}

fn prefix(text: &str) -> Result<String, String> {
    const LEN_MAX: usize = 200;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    match (1..=LEN_MAX).contains(&text.len()) && text.chars().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is none: 1 to {LEN_MAX} letters, digits, '.', '_', '-' and ':' are")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::settings::{NearlineOutput, Settings};

    fn check(declared: &str, expected: Expect) {
        let text = format!("name = \"a\"\ntopics = [\"a\"]\n[nearline]\n{declared}\n");
        expected.assert_eq(&match Settings::parse(&text) {
            Ok(settings) => match settings.nearline {
                Some(NearlineOutput::Stream(stream)) => format!("{stream:?}"),
                _ => "another output".to_owned(),
            },
            Err(problem) => problem.to_string(),
        });
    }

    #[test]
    fn a_stream_is_declared_and_its_password_is_not_shown() {
        check(
            "stream = \"redis://:secret@host:6380/3\"",
            expect![[r#"StreamSettings { prefix: "ottla:stream", len_max: None, .. }"#]],
        );
        check(
            "stream = \"redis://host\"\nstream_prefix = \"shop:live\"\nstream_max_len = 1_000_000",
            expect![[r#"StreamSettings { prefix: "shop:live", len_max: Some(1000000), .. }"#]],
        );
        check(
            "stream = \"rediss://:secret@host/0\"",
            expect![
                "line 4, column 10: stream: it is no address of a Redis; redis://USER:PASSWORD@HOST:PORT/NUMBER is one"
            ],
        );
        check(
            "stream = \"redis://host\"\nstream_prefix = \"a{b}\"",
            expect![[
                r#"line 5, column 17: stream_prefix: "a{b}" is none: 1 to 200 letters, digits, '.', '_', '-' and ':' are"#
            ]],
        );
        check(
            "stream = \"redis://host\"\nstream_max_len = 0",
            expect!["line 5, column 18: stream_max_len takes a whole number of at least 1"],
        );
        check(
            "stream = \"redis://host\"\nflush_age = \"1s\"",
            expect![
                "line 5, column 1: nearline.flush_age is not known here; stream, stream_prefix, stream_max_len are"
            ],
        );
        check(
            "stream = \"redis://host\"\ntopic = \"out\"",
            expect!["line 5, column 9: there are stream and topic: a line has one output"],
        );
        check(
            "stream = \"redis://host\"\ntable = \"t\"",
            expect!["line 5, column 9: there are stream and table: a line has one output"],
        );
        check(
            "flush_age = \"1s\"",
            expect![[
                r#"line 3, column 1: nearline.topic is missing, or another output; one of topic = "orders.out", table = "/data/orders-now", stream = "redis://HOST:PORT/0" says it"#
            ]],
        );
    }
}
