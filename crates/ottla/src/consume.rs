//! `ottla consume`: records of topics to the standard output.
//!
//! Without a group, partitions are read from where `-o` says and nothing is committed. In a group, a record is
//! committed only after it was printed, so an interrupted command repeats records and never leaves one out.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use client::{
    Admin, Cluster, CommittedOffsets, Consumer, Isolation, OffsetReset, OffsetSpec, Records, Start,
};
use wire::{Offset, PartitionId, Str, TopicPartition};

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::format::{Format, Printed, Printer};
use crate::produce::parse_format;
use crate::range::Range;
use crate::stop::Stop;
use crate::topic::Filter;

/// How long records are waited for; reaching an end is noticed in between.
const POLL_WAIT: Duration = Duration::from_millis(200);
/// How long committing and leaving the group may take.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Consume records of topics and print them
#[derive(Debug, Args)]
#[command(after_help = "\
Offsets: start, end, N, +N (after the start), -N (before the end), @TIME, and FROM:TO, which ends there. A time is
@1700000000000, @2026-01-31, @2026-01-31T12:00:00Z or an age, @-1h30m. In a group, the offset is where the group
begins if it has committed nothing.

Formats: %t topic, %k key, %v value, %h headers, %p partition, %o offset, %d timestamp, %e leader epoch, %x producer
id, %y producer epoch, %a{compression} and other attributes; %T, %K, %V lengths, %H number of headers; %[ log start,
%| last stable offset, %] high watermark, %i count; %% %{ %} themselves; \\n \\t \\r \\\\ and \\xNN characters. Braces
change the notation: %v{hex}, %k{base64}, %o{hex8}, %V{big32}, %d{strftime[%F %T]}, %h{%k=%v }.

Examples:
  ottla consume greetings                                 # from the start, then wait for more
  ottla consume greetings -o end                          # what comes from now on
  ottla consume greetings -o -10 -n 10                    # the last ten of each partition, ten in all
  ottla consume greetings -o :end                         # all there is, then end
  ottla consume greetings -o @-1h -f '%d{strftime[%T]} %k %v\\n'
  ottla consume greetings -p 0,2 -f '%k %v %p %o %d %h\\n'
  ottla consume greetings -g readers                      # share the work, remember the place
  ottla consume -r '^orders' -f json | jq .value")]
pub(crate) struct ConsumeArgs {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// Take the names as regular expressions
    #[arg(short, long)]
    regex: bool,
    /// Read as a member of this group
    #[arg(short, long, conflicts_with = "partitions")]
    group: Option<String>,
    /// Where to begin and, behind a colon, to end
    #[arg(short, long, default_value = "start", allow_hyphen_values = true, value_parser = Range::parse)]
    offset: Range,
    /// End after this many records [default: never]
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    num: Option<u64>,
    /// Read these partitions alone
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// How to print a record, or json
    #[arg(short, long, default_value = "%v\\n", value_parser = parse_format)]
    format: Format,
    /// Which records of transactions to print
    #[arg(long, value_enum, default_value_t = IsolationLevel::ReadUncommitted)]
    isolation_level: IsolationLevel,
    /// Short for --isolation-level read_committed
    #[arg(long)]
    read_committed: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum IsolationLevel {
    ReadUncommitted,
    ReadCommitted,
}

pub(crate) async fn run(args: ConsumeArgs) -> Result<(), Failure> {
    if args.group.is_some() && args.offset.to.is_some() {
        return Err(Failure::usage(
            "a group reads on for ever: --offset with an end does not go with --group",
        ));
    }
    let is_committed = args.read_committed || args.isolation_level == IsolationLevel::ReadCommitted;
    let cluster = args
        .connect
        .cluster(|options| {
            if is_committed {
                options.isolation_level = Isolation::ReadCommitted;
            }
            // Who names an offset that is gone gets what is nearest to it.
            options.auto_offset_reset = OffsetReset::Earliest;
            options.group_id = args.group.clone();
        })
        .await?;
    let admin = Admin::new(cluster.clone());
    let topics = topics(&admin, &args).await?;
    let now = client::Environment::now(&client::TokioEnvironment);
    let from = args.offset.from.at(now);
    let (consumer, ends) = match args.group {
        Some(_) => {
            let offsets = CommittedOffsets::new(cluster.clone()).or_else(from);
            let consumer = Consumer::with_offsets(cluster, Arc::new(offsets));
            consumer.subscribe(topics)?;
            (consumer, None)
        }
        None => {
            let partitions = partitions(&admin, &topics, &args.partitions).await?;
            let ends = match args.offset.to {
                Some(to) => Some(ends(&admin, &cluster, &partitions, to.at(now)).await?),
                None => None,
            };
            let consumer = Consumer::new(cluster);
            consumer.assign(partitions.into_iter().map(|partition| (partition, Some(from))))?;
            (consumer, ends)
        }
    };
    let reading = Reading { printer: Printer::new(args.format), left: args.num, ends };
    reading.run(consumer).await
}

async fn topics(admin: &Admin, args: &ConsumeArgs) -> Result<Vec<Str>, Failure> {
    if !args.regex {
        return Ok(args.topics.iter().map(|topic| Str::copy_from(topic)).collect());
    }
    let filter = Filter::new(args.topics.clone(), true)?;
    let all = admin.list_topics().await?.into_iter().filter(|topic| !topic.is_internal);
    let matching: Vec<_> = all.map(|topic| topic.name).filter(|name| filter.matches(name)).collect();
    match matching.is_empty() {
        true => Err(Failure::failed("no topic matches; `ottla topic list` shows those there are")),
        false => Ok(matching),
    }
}

/// All partitions of the topics, or those named.
pub(crate) async fn partitions(
    admin: &Admin,
    topics: &[Str],
    named: &[i32],
) -> Result<Vec<TopicPartition>, Failure> {
    let mut partitions = Vec::new();
    for (name, topic) in admin.describe_topics(topics).await? {
        let known: Vec<_> = topic?.partitions.iter().map(|partition| partition.id).collect();
        if let Some(missing) = named.iter().find(|id| !known.contains(&PartitionId(**id))) {
            let message = format!("{name} has no partition {missing}: it has {}", known.len());
            let advice = Some(format!("`ottla topic describe -p {name}` shows them"));
            return Err(Failure::Failed { message, advice });
        }
        let wanted = known.into_iter().filter(|id| named.is_empty() || named.contains(&id.0));
        partitions.extend(wanted.map(|id| TopicPartition::new(name.clone(), id)));
    }
    Ok(partitions)
}

/// Where each partition's reading ends, as of now.
pub(crate) async fn ends(
    admin: &Admin,
    cluster: &Cluster,
    partitions: &[TopicPartition],
    to: Start,
) -> Result<HashMap<TopicPartition, Offset>, Failure> {
    let isolation = cluster.options().isolation_level;
    let list = async |spec: OffsetSpec| -> Result<HashMap<TopicPartition, Offset>, Failure> {
        let asked: Vec<_> = partitions.iter().map(|partition| (partition.clone(), spec)).collect();
        let mut offsets = HashMap::new();
        for (partition, listed) in admin.list_offsets(&asked, isolation).await? {
            offsets.extend(listed?.offset.map(|offset| (partition, offset)));
        }
        Ok(offsets)
    };
    let earliest = list(OffsetSpec::Earliest).await?;
    let latest = list(OffsetSpec::Latest).await?;
    let at = match to {
        Start::At(time) => list(OffsetSpec::At(time)).await?,
        _ => HashMap::new(),
    };
    let end = |partition: &TopicPartition| {
        let of = |offsets: &HashMap<_, Offset>| offsets.get(partition).copied().unwrap_or(Offset::ZERO);
        let end = to.resolve(of(&earliest), of(&latest), at.get(partition).copied());
        (partition.clone(), end)
    };
    Ok(partitions.iter().map(end).collect())
}

/// The reading of records until the end, if there is one.
struct Reading {
    printer: Printer,
    /// Records still to be printed, if they are counted.
    left: Option<u64>,
    /// Partitions that have not reached their ends.
    ends: Option<HashMap<TopicPartition, Offset>>,
}

impl Reading {
    async fn run(mut self, mut consumer: Consumer) -> Result<(), Failure> {
        let mut out = Vec::with_capacity(64 * 1024);
        // One for the whole run, so that it is heard while printing, too.
        let mut stopped = Stop::listen(false)?;
        let outcome: Result<(), Failure> = loop {
            let taken = tokio::select! {
                taken = tokio::time::timeout(POLL_WAIT, consumer.next()) => taken,
                () = stopped.asked() => break Ok(()),
            };
            match taken {
                Ok(Some(Ok(mut records))) => {
                    let printed = self.print(&records, &mut out);
                    if let Err(error) =
                        std::io::stdout().lock().write_all(&out).and_then(|()| std::io::stdout().flush())
                    {
                        // What was not printed was not dealt with.
                        break Err(error.into());
                    }
                    out.clear();
                    if let Some(last) = printed.checked_sub(1) {
                        records.done_through(records[last].offset);
                    }
                }
                Ok(Some(Err(error))) => break Err(error.into()),
                Ok(None) => break Ok(()),
                Err(_) => {}
            }
            if self.left == Some(0) || self.is_at_the_end(&consumer) {
                break Ok(());
            }
        };
        let closed = consumer.close(CLOSE_WAIT).await;
        outcome?;
        closed?;
        Ok(())
    }

    /// Prints until enough were printed; tells how many records were dealt with.
    fn print(&mut self, records: &Records, out: &mut Vec<u8>) -> usize {
        let end = match &self.ends {
            // A partition that is at its end is read no further, though records came with the last batch.
            Some(ends) => match ends.get(records.partition()) {
                Some(&end) => end,
                None => return records.len(),
            },
            None => Offset(i64::MAX),
        };
        let watermarks = records.watermarks();
        for (index, record) in records.iter().enumerate() {
            if self.left == Some(0) {
                return index;
            }
            if record.offset >= end {
                break;
            }
            self.printer.print(&Printed { record, watermarks }, out);
            self.left = self.left.map(|left| left - 1);
        }
        records.len()
    }

    /// Stops reading partitions that have reached their ends; says whether all have.
    fn is_at_the_end(&mut self, consumer: &Consumer) -> bool {
        let Some(ends) = &mut self.ends else { return false };
        let reached = |partition: &TopicPartition, end: Offset| {
            consumer.position(partition).is_some_and(|position| position >= end)
        };
        let done: Vec<_> = ends
            .iter()
            .filter(|(partition, end)| reached(partition, **end))
            .map(|(name, _)| name.clone())
            .collect();
        for partition in &done {
            ends.remove(partition);
        }
        // They are assigned, so that they can be paused.
        let _ = consumer.pause(&done);
        ends.is_empty()
    }
}
