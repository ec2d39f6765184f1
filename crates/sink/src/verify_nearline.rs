//! Whether the output topic holds what the log holds, each record once and as it is.
//!
//! Reads one partition of the output and the one of the input that its records say they come from side by side, both forward.

use client::{Admin, Cluster};
use wire::Str;

use crate::beside::{Beside, Removed, Written};
use crate::digest::Digest;
use crate::key::{Key, Range};
use crate::log_reader::LogReader;
use crate::nearline_position::Kept;
use crate::origin;
use crate::output::{self, Output};
use crate::run::RunError;
use crate::settings::{Line, NearlineSettings, Settings};
use crate::source::{Source, sources};
use crate::verify::{Finding, Verified, both};

/// Compares every partition; `others` says for each from where up to where the other line has come, if there is one. With each goes
/// what it holds of that range, as far as both have it.
pub(crate) async fn verify(
    settings: &Settings,
    nearline: &NearlineSettings,
    cluster: &Cluster,
    other: impl Fn(&Key) -> Option<Range>,
) -> Result<Vec<(Verified, Digest)>, RunError> {
    let output = Output::describe(cluster, &nearline.topic).await?;
    let group = Str::copy_from(settings.line_name(Line::Nearline).as_str());
    let admin = Admin::new(cluster.clone());
    // The positions first: what comes into the output meanwhile is behind what is compared.
    let kept = admin.stable_group_offsets(&group).await?.committed;
    let mut all = Vec::new();
    for source in sources(settings, Line::Nearline, cluster).await? {
        let mut verified = Verified::new(Line::Nearline, &source.key.partition);
        let kept = match kept.get(&source.key.partition) {
            Some(committed) => match Kept::read(committed, &source.key, output.id) {
                Ok(kept) => Some(kept),
                Err(error) => {
                    let place = source.key.partition.to_string();
                    verified.findings.push(Finding { place, problem: error.to_string() });
                    None
                }
            },
            None => {
                if let Err(error) =
                    output::check_new(cluster, &output, nearline.if_removed, &source.key, None).await
                {
                    let place = source.key.partition.to_string();
                    verified.findings.push(Finding { place, problem: error.to_string() });
                }
                None
            }
        };
        let mut digest = Digest::new(None);
        if let Some(kept) = kept
            && kept.begun < kept.position.next
        {
            let committed = Range::new(kept.begun, kept.position.next);
            verified.committed = Some(committed);
            digest.within = other(&source.key).and_then(|other| both(committed, other));
            compare(cluster, &output, &source, committed, &mut verified, &mut digest).await?;
        }
        all.push((verified, digest));
    }
    Ok(all)
}

async fn compare(
    cluster: &Cluster,
    output: &Output,
    source: &Source,
    committed: Range,
    verified: &mut Verified,
    digest: &mut Digest,
) -> Result<(), RunError> {
    let partition = output.partition_for(&source.key.partition);
    let output_start = Output::start(cluster, &partition).await?;
    // Up to here it is written; the marker that makes it visible is on its way at most, and is waited for.
    let output_end = Output::written_end(cluster, &partition).await?;
    // What stood before the output's first record, whoever wrote it, its own retention has removed: no more than that can have been
    // the line's.
    let removed = Removed::AtMost(output_start.0);
    let mut beside = Beside::new(cluster, source, committed, removed, verified, digest).await?;
    let mut written = LogReader::new(&output::committed_only(cluster)?, &partition, output_start)?;
    while let Some(records) = written.next(output_end).await? {
        for record in &records {
            let Some((from, offset, headers)) = origin::of(&record.headers, &source.key.line) else {
                continue;
            };
            if from != source.key.partition || offset >= committed.end {
                continue;
            }
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let one = Written { offset, key, value, headers, timestamp: record.timestamp };
            beside.take(one, || format!("{partition} at offset {}", record.offset)).await?;
        }
        records.done();
    }
    written.close().await;
    beside.end().await
}
