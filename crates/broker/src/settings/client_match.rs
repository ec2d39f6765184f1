//! Which clients a subscription to client metrics means: patterns for what is known of them (KIP-714).
//! A pattern has to fit the whole text; a client is meant if all do.

use regex::Regex;

/// Size of a compiled pattern in bytes. They come over the network.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// What a pattern can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selector {
    InstanceId,
    ClientId,
    SoftwareName,
    SoftwareVersion,
    SourceAddress,
    SourcePort,
}

impl Selector {
    const ALL: [Selector; 6] = [
        Selector::InstanceId,
        Selector::ClientId,
        Selector::SoftwareName,
        Selector::SoftwareVersion,
        Selector::SourceAddress,
        Selector::SourcePort,
    ];

    fn name(self) -> &'static str {
        match self {
            Selector::InstanceId => "client_instance_id",
            Selector::ClientId => "client_id",
            Selector::SoftwareName => "client_software_name",
            Selector::SoftwareVersion => "client_software_version",
            Selector::SourceAddress => "client_source_address",
            Selector::SourcePort => "client_source_port",
        }
    }
}

/// Reads patterns as they stand in the setting; the error names the one that makes no sense.
pub(crate) fn patterns(items: &[String]) -> Result<Vec<(Selector, Regex)>, String> {
    let pattern = |item: &String| {
        let (name, pattern) = item.split_once('=')?;
        let selector = Selector::ALL.into_iter().find(|selector| selector.name() == name.trim())?;
        let whole = format!("^(?:{})$", pattern.trim());
        let built = regex::RegexBuilder::new(&whole).size_limit(PATTERN_BYTES_MAX).build().ok()?;
        Some((selector, built))
    };
    items.iter().map(|item| pattern(item).ok_or_else(|| item.clone())).collect()
}
