//! `ottla audit verify`: reads a topic and says whether every stamped record came, once and in order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use client::{OffsetReset, Start};
use tokio::time::{Instant, sleep_until};
use wire::{Millis, Str};

use super::judge::{Beginning, Patience};
use super::page::{self, Shared};
use super::report::Audit;
use super::stamp::Carrier;
use super::traffic::Reader;
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::range::Range;
use crate::stop::Stop;

/// Read stamped records and report what was lost, doubled and reordered, and how long they took
#[derive(Debug, Args)]
#[command(after_help = "\
Lost is a number of a key that does not come though a later one does, or that --expect says there
is; doubled is one that comes again; reordered is one that comes in its partition behind a later
one of its key. Read from its start, a key begins with 0: what retention has removed is lost, and
--offset begins later. Time buckets are by the stamps' times. The delay is from the stamp's time
to the reading with --live, and to the record's timestamp without; both clocks count. Records of
aborted transactions count unless -X isolation.level=read_committed.

Kept are 100,000 keys, 10,000 gaps of each and a million gaps in all. What is beyond is named as
not judged, and the verdict is not clean then.

Exit code 0 when every record came, once and in order; 1 otherwise.

Examples:
  ottla audit verify orders                                  # all that is there
  ottla audit verify orders-enriched --field meta.audit      # the stamp in the JSON value
  ottla audit verify orders --run 7f3a --expect 600000
  ottla audit verify orders --live --for 10m --format json
  ottla audit verify orders --live --metrics 0.0.0.0:9645    # until Ctrl-C")]
pub(crate) struct VerifyArgs {
    /// The topic
    topic: String,
    /// Go on with what comes, until --for, --expect or Ctrl-C
    #[arg(long)]
    live: bool,
    /// Where to begin and, behind a colon, to end [default: start:end, or end with --live]
    #[arg(short, long, allow_hyphen_values = true, value_parser = Range::parse)]
    offset: Option<Range>,
    /// End after this long
    #[arg(long = "for", value_name = "DURATION", requires = "live", value_parser = super::duration)]
    duration: Option<Duration>,
    /// How many numbers were given out, of all keys together; with --live, reading ends when all have come
    #[arg(long, value_name = "NUMBER")]
    expect: Option<u64>,
    /// Follow the stamps of this run alone
    #[arg(long)]
    run: Option<String>,
    /// The stamp is in this field of a JSON value instead of a header; . is the value itself
    #[arg(long, value_name = "NAME[.NAME]")]
    field: Option<String>,
    /// Length of a time bucket; where there would be more than 2000 it is doubled
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = super::duration)]
    bucket: Duration,
    /// How long a record may be missing before metrics count it as lost
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    settle: Duration,
    /// Serve metrics for Prometheus here
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
}

pub(super) async fn run(args: VerifyArgs, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    if args.live && args.offset.is_some_and(|range| range.to.is_some()) {
        return Err(Failure::usage("--live goes on: --offset with an end does not go with it"));
    }
    let cluster = connect.cluster(|options| options.auto_offset_reset = OffsetReset::Earliest).await?;
    let now = super::now();
    let from = match args.offset {
        Some(range) => range.from.at(now),
        None if args.live => Start::Latest,
        None => Start::Earliest,
    };
    let to = args.offset.and_then(|range| range.to).map(|to| to.at(now));
    let to = if args.live { None } else { Some(to.unwrap_or(Start::Latest)) };
    let beginning = if from == Start::Earliest { Beginning::Zero } else { Beginning::FirstSeen };
    let topic = Str::copy_from(&args.topic);
    let carrier = Carrier::new(args.field.as_deref());
    let mut reader = Reader::begin(&cluster, &topic, from, to).await?;
    let audit = Audit::new(topic, carrier, args.run.clone(), beginning, super::millis(args.bucket));
    let audit = Arc::new(Mutex::new(audit));
    let _served = match &args.metrics {
        Some(address) => Some(serve(address, &audit, super::millis(args.settle)).await?),
        None => None,
    };
    let mut stop = Stop::listen(false)?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let progress = Progress::new();
    loop {
        let records = tokio::select! {
            biased;
            () = stop.asked() => break,
            () = page::or_never(deadline.map(sleep_until)) => break,
            records = reader.next() => match records? {
                Some(records) => records,
                None => break,
            },
        };
        let read = super::now();
        let mut audit = page::lock(&audit);
        for record in &records {
            audit.take(record, if args.live { read } else { record.timestamp });
        }
        if args.live && args.expect.is_some_and(|expected| audit.judge.distinct() >= expected) {
            break;
        }
        progress.show_often(audit.line());
    }
    drop(progress);
    page::lock(&audit).conclude(output, args.expect, &[])
}

async fn serve(address: &str, audit: &Shared<Audit>, settle_ms: i64) -> Result<page::Served, Failure> {
    let audit = Arc::clone(audit);
    let made = move || {
        let patience = Patience::Until(Millis(super::now().0.saturating_sub(settle_ms)));
        page::page("ottla_audit", &page::lock(&audit), patience)
    };
    let (bound, served) = page::serve(address, made).await?;
    eprintln!("metrics at http://{bound}/metrics");
    Ok(served)
}
