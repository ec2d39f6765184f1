//! Makes `docs/protocol.md`: which APIs are implemented, in which versions, and when the others come.
//! What is implemented is read from the table that also answers ApiVersions; only the others are listed here.

use std::fmt::Write;

use wire::ApiKey;

/// An API that clients of Apache Kafka 4.3 can use and that is not implemented.
pub(crate) struct Planned {
    pub(crate) code: i16,
    name: &'static str,
    versions: &'static str,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Security,
    Streams,
}

impl Step {
    fn sentence(self) -> &'static str {
        match self {
            Step::Security => "with authentication and authorization",
            Step::Streams => "later (streams groups, KIP-1071)",
        }
    }
}

const fn planned(code: i16, name: &'static str, versions: &'static str, step: Step) -> Planned {
    Planned { code, name, versions, step }
}

pub(crate) const PLANNED: &[Planned] = &[
    planned(17, "SaslHandshake", "0-1", Step::Security),
    planned(29, "DescribeAcls", "1-3", Step::Security),
    planned(30, "CreateAcls", "1-3", Step::Security),
    planned(31, "DeleteAcls", "1-3", Step::Security),
    planned(36, "SaslAuthenticate", "0-2", Step::Security),
    planned(38, "CreateDelegationToken", "1-3", Step::Security),
    planned(39, "RenewDelegationToken", "1-2", Step::Security),
    planned(40, "ExpireDelegationToken", "1-2", Step::Security),
    planned(41, "DescribeDelegationToken", "1-3", Step::Security),
    planned(50, "DescribeUserScramCredentials", "0", Step::Security),
    planned(51, "AlterUserScramCredentials", "0", Step::Security),
    planned(88, "StreamsGroupHeartbeat", "0", Step::Streams),
    planned(89, "StreamsGroupDescribe", "0", Step::Streams),
];

/// The last API of Kafka 4.3.
pub(crate) const LAST_CODE: i16 = 92;

/// Spoken between Kafka's own nodes, or retired: Ottla's brokers speak another protocol among themselves.
pub(crate) const NOT_FOR_CLIENTS: [i16; 16] = [4, 5, 6, 7, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 73, 82];

pub(crate) fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    for api in ApiKey::ALL.iter().filter(|api| !api.is_private()) {
        let versions = api.versions();
        let (first, last) = (versions.start(), versions.end());
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let _ = writeln!(page, "| {} | {} | {range} |", api.code(), api.name());
    }
    page.push_str(PLANNED_INTRODUCTION);
    for Planned { code, name, versions, step } in PLANNED {
        let _ = writeln!(page, "| {code} | {name} | {versions} | {} |", step.sentence());
    }
    page
}

const INTRODUCTION: &str = "\
# Protocol

This page is made from the table of APIs that also answers ApiVersions; `UPDATE_EXPECT=1 cargo test -p ottla-broker --test
documents` writes it.

Ottla speaks Kafka's protocol as Apache Kafka 4.3 does: the same APIs for clients in the same stable versions, so nothing
older than the clients of Kafka 2.1. A request of an API or version that is not in the first table is refused with
UNSUPPORTED_VERSION; an ApiVersions request in an unknown version is answered in version 0 with the list (KIP-511). Record
batches are of format v2; the older formats are refused with UNSUPPORTED_FOR_MESSAGE_FORMAT.

## Implemented

| key | API | versions |
|---|---|---|
";

const PLANNED_INTRODUCTION: &str = "
## Not implemented yet

They are not advertised. The versions are those of Apache Kafka 4.3.

| key | API | versions in Kafka | comes |
|---|---|---|---|
";
