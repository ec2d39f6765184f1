//! `ottla produce`: records from the standard input or from files into a topic.
//!
//! A thread reads, the producer sends; a bounded channel between them and the producer's bounded buffer keep
//! memory in bounds for any input. The first record that fails ends the command, and what was sent before it is
//! said. Records are acknowledged by all replicas in sync unless `--acks` says otherwise.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use client::{Acks, ConsumedRecord, Delivery, DeliveryHandle, Header, Producer, ProducerRecord, Watermarks};
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::compression::Compression;
use wire::records::TimestampType;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str};

use crate::bench::amount::Grouped;
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::format::{Format, InputRecord, Printed, Printer, ReadError, RecordReader};

/// How long the last records may take, past which each has failed.
const DELIVERY_MAX: Duration = Duration::from_secs(300);
/// Records read ahead of the producer.
const READ_AHEAD_MAX: usize = 1024;
/// Records sent whose acknowledgement is still to come.
const UNACKNOWLEDGED_MAX: usize = 100_000;
/// Read at once.
const READ_BYTES: usize = 256 * 1024;

/// Produce records to a topic from the standard input or from files
#[derive(Debug, Args)]
#[command(after_help = "\
The format says how records stand in the input; each line is a value unless it is given. %t topic, %k key, %v value,
%p partition, %d timestamp in milliseconds, %H number of headers, %h{…} headers; %T, %K and %V lengths; \\n \\t \\r \\\\
and \\xNN characters. Braces change the notation: %v{hex}, %k{base64}, %V{big32}, %K{4}. `json` reads what
`ottla consume -f json` prints. Files are read one after the other, and on a terminal a line shows how far.

Examples:
  echo hello | ottla produce greetings
  ottla produce greetings -k key1 < lines.txt             # one key for all
  ottla produce greetings -K : < lines.txt                # key:value
  ottla produce greetings -f '%k %v\\n' -z zstd < pairs.txt
  ottla produce greetings -H source:import -p 0 < lines.txt
  echo | ottla produce accounts -k account-7 -Z           # a tombstone
  ottla consume a -f json -o :end | ottla produce b -f json
  ottla produce greetings -o '%t-%p %o\\n' < lines.txt     # say where each went
  ottla produce greetings --file monday.json --file tuesday.json -f json")]
pub(crate) struct ProduceArgs {
    /// The topic; the input may name others with %t
    topic: Option<String>,
    /// Read this file instead of the standard input, which is - (repeatable)
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Key of records for which the input has none
    #[arg(short, long)]
    key: Option<String>,
    /// Each line is a key, this text, and a value; a line without it is a value
    #[arg(short = 'K', long, conflicts_with = "format")]
    key_delimiter: Option<String>,
    /// Header of every record (repeatable)
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Partition of records for which the input has none; -1, the default, is by key
    #[arg(short, long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    partition: Option<i32>,
    /// How records stand in the input
    #[arg(short, long, default_value = "%v\\n", value_parser = parse_format)]
    format: Format,
    /// What to print for each acknowledged record
    #[arg(short, long, value_name = "FORMAT", value_parser = parse_format)]
    output_format: Option<Format>,
    /// Replicas that must have a record: -1 or all, 1 or 0
    #[arg(long, default_value = "-1", allow_hyphen_values = true, value_name = "-1|1|0", value_parser = acks)]
    acks: Acks,
    /// Codec of the batches
    #[arg(short = 'z', long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// Send empty values as tombstones
    #[arg(short = 'Z', long)]
    tombstone: bool,
    /// Let the broker create the topic, if it is set to
    #[arg(long)]
    allow_auto_topic_creation: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

pub(crate) fn parse_format(text: &str) -> Result<Format, String> {
    Format::parse(text).map_err(|error| error.to_string())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once(':').ok_or_else(|| format!("{text:?} has no colon; write KEY:VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "-1" | "all" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("-1 (or all), 1 and 0 are the choices".to_owned()),
    }
}

/// What the flags add to each record of the input.
struct Template {
    topic: Option<Str>,
    key: Option<Bytes>,
    headers: Vec<Header>,
    partition: Option<PartitionId>,
    tombstone: bool,
}

impl Template {
    fn fill(&self, input: InputRecord) -> Result<ProducerRecord, Failure> {
        let topic = input
            .topic
            .map(Str::from)
            .or_else(|| self.topic.clone())
            .ok_or_else(|| Failure::usage("no topic: name one as argument, or in the input with %t"))?;
        let headers = input.headers.into_iter().map(|(key, value)| Header { key: key.into(), value });
        Ok(ProducerRecord {
            topic,
            partition: input.partition.map(PartitionId).or(self.partition),
            key: input.key.or_else(|| self.key.clone()),
            value: input.value.filter(|value| !(self.tombstone && value.is_empty())),
            headers: headers.chain(self.headers.iter().cloned()).collect(),
            timestamp: input.timestamp.map(Millis),
        })
    }
}

pub(crate) async fn run(args: ProduceArgs) -> Result<(), Failure> {
    let (inputs, extent) = open(&args.files)?;
    let reads_terminal = inputs.iter().any(|input| input.file.is_none()) && io::stdin().is_terminal();
    let reader = |input: Input| {
        let reader = match &args.key_delimiter {
            Some(delimiter) if delimiter.is_empty() => {
                return Err(Failure::usage("the key delimiter is empty"));
            }
            Some(delimiter) => RecordReader::with_key_delimiter(delimiter, input.bytes),
            None => RecordReader::new(args.format.clone(), input.bytes)
                .map_err(|error| Failure::usage(error.to_string()))?,
        };
        Ok((input.file, reader))
    };
    let readers = inputs.into_iter().map(reader).collect::<Result<Vec<_>, Failure>>()?;
    let template = Template {
        topic: args.topic.map(Str::from),
        key: args.key.map(Bytes::from),
        headers: args
            .headers
            .into_iter()
            .map(|(key, value)| Header { key: key.into(), value: Some(value.into()) })
            .collect(),
        partition: args.partition.filter(|partition| *partition >= 0).map(PartitionId),
        tombstone: args.tombstone,
    };
    let cluster = args
        .connect
        .cluster(|options| {
            options.acks = args.acks;
            options.compression_type = args.compression.into();
            options.allow_auto_create_topics = args.allow_auto_topic_creation;
        })
        .await?;
    if reads_terminal {
        eprintln!("reading from the terminal; Ctrl-D ends");
    }
    let producer = Producer::new(cluster)?;
    // Neither what is typed nor what is printed is written over.
    let prints = args.output_format.is_some() && io::stdout().is_terminal();
    let mut sending = Sending {
        printer: args.output_format.map(Printer::new),
        unacknowledged: VecDeque::new(),
        acknowledged: 0,
        begun: Instant::now(),
        progress: (!reads_terminal && !prints).then(Progress::new),
        extent,
    };
    let outcome = sending.send_all(&producer, &template, read_in_thread(readers)).await;
    sending.progress = None;
    // What failed has been said by then, and a record that is left has its own time to fail.
    let closed = producer.close(DELIVERY_MAX).await;
    outcome.map_err(|failure| sending.explain(failure))?;
    Ok(closed?)
}

/// Where records come from.
struct Input {
    /// None for the standard input.
    file: Option<PathBuf>,
    bytes: Box<dyn BufRead + Send>,
}

/// How much there is to be read, and how much was.
struct Extent {
    /// Unknown where not all are files with an end.
    bytes: Option<u64>,
    read: Arc<AtomicU64>,
}

/// Opens all of it, so that nothing is sent when a file is not there.
fn open(files: &[PathBuf]) -> Result<(Vec<Input>, Extent), Failure> {
    let read = Arc::new(AtomicU64::new(0));
    let input = |file: Option<PathBuf>, source: Box<dyn Read + Send>| {
        let counted = Counted { source, read: Arc::clone(&read) };
        Input { file, bytes: Box::new(BufReader::with_capacity(READ_BYTES, counted)) }
    };
    let (mut inputs, mut bytes) = (Vec::new(), Some(0));
    for path in files {
        if path.as_os_str() == "-" {
            inputs.push(input(None, Box::new(io::stdin())));
            bytes = None;
            continue;
        }
        let failed = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::failed(format!("cannot read {}: it is a directory", path.display())));
        }
        let length = metadata.is_file().then_some(metadata.len());
        bytes = bytes.zip(length).map(|(sum, length): (u64, u64)| sum + length);
        inputs.push(input(Some(path.clone()), Box::new(file)));
    }
    if inputs.is_empty() {
        inputs.push(input(None, Box::new(io::stdin())));
        bytes = None;
    }
    Ok((inputs, Extent { bytes, read }))
}

/// Counts what is read.
struct Counted {
    source: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Why the input could not be read on.
struct Unread {
    file: Option<PathBuf>,
    error: ReadError,
}

impl From<Unread> for Failure {
    fn from(Unread { file, error }: Unread) -> Self {
        let message = match (file, &error) {
            (Some(file), ReadError::Io(error)) => format!("cannot read {}: {error}", file.display()),
            (Some(file), _) => format!("{}: {error}", file.display()),
            (None, _) => error.to_string(),
        };
        match error {
            ReadError::Io(_) => Failure::failed(message),
            _ => Failure::usage(message),
        }
    }
}

/// Reading from a pipe or terminal blocks, so it has a thread of its own, which ends with the input or with the
/// process.
fn read_in_thread<R: BufRead + Send + 'static>(
    readers: Vec<(Option<PathBuf>, RecordReader<R>)>,
) -> mpsc::Receiver<Result<InputRecord, Unread>> {
    let (records, received) = mpsc::channel(READ_AHEAD_MAX);
    std::thread::spawn(move || {
        for (file, mut reader) in readers {
            while let Some(next) = reader.next().transpose() {
                let next = next.map_err(|error| Unread { file: file.clone(), error });
                let is_last = next.is_err();
                if records.blocking_send(next).is_err() || is_last {
                    return;
                }
            }
        }
    });
    received
}

/// Records on their way.
struct Sending {
    printer: Option<Printer>,
    /// In the order of sending; their records are kept only to be printed.
    unacknowledged: VecDeque<(Option<ProducerRecord>, DeliveryHandle)>,
    acknowledged: u64,
    begun: Instant,
    /// Where there is room for a line that changes.
    progress: Option<Progress>,
    extent: Extent,
}

impl Sending {
    async fn send_all(
        &mut self,
        producer: &Producer,
        template: &Template,
        mut input: mpsc::Receiver<Result<InputRecord, Unread>>,
    ) -> Result<(), Failure> {
        let mut is_open = true;
        while is_open || !self.unacknowledged.is_empty() {
            tokio::select! {
                biased;
                delivery = first(&mut self.unacknowledged), if !self.unacknowledged.is_empty() => {
                    self.delivered(delivery?)?;
                }
                next = input.recv(), if is_open && self.unacknowledged.len() < UNACKNOWLEDGED_MAX => match next {
                    None => is_open = false,
                    Some(Err(unread)) => {
                        self.rest().await?;
                        return Err(unread.into());
                    }
                    Some(Ok(record)) => {
                        let record = template.fill(record)?;
                        let kept = self.printer.is_some().then(|| record.clone());
                        self.unacknowledged.push_back((kept, producer.enqueue(record).await?));
                    }
                },
            }
        }
        Ok(())
    }

    async fn rest(&mut self) -> Result<(), Failure> {
        while !self.unacknowledged.is_empty() {
            let delivery = first(&mut self.unacknowledged).await?;
            self.delivered(delivery)?;
        }
        Ok(())
    }

    /// The first of those under way was acknowledged.
    fn delivered(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let record = self.unacknowledged.pop_front().and_then(|(record, _)| record);
        self.acknowledged += 1;
        self.show();
        if let (Some(printer), Some(record)) = (&mut self.printer, record) {
            let mut line = Vec::new();
            let nothing = Offset(-1);
            let watermarks = Watermarks { log_start: nothing, last_stable: nothing, high_watermark: nothing };
            printer.print(&Printed { record: &as_consumed(record, delivery), watermarks }, &mut line);
            io::stdout().lock().write_all(&line)?;
        }
        Ok(())
    }

    /// How far it is.
    fn show(&self) {
        let Some(progress) = &self.progress else { return };
        let per_second = self.acknowledged as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let read = self.extent.read.load(Ordering::Relaxed);
        let (records, per_second) = (Grouped(self.acknowledged), Grouped(per_second as u64));
        let mb = |bytes: u64| bytes as f64 / 1e6;
        match self.extent.bytes {
            // A file may grow.
            Some(all) => progress.show_often(format_args!(
                "{:.1} of {:.1} MB, {:.0}%: {records} records, {per_second}/s",
                mb(read),
                mb(all.max(read)),
                read as f64 / all.max(read).max(1) as f64 * 100.0
            )),
            None => {
                progress.show_often(format_args!("{:.1} MB: {records} records, {per_second}/s", mb(read)))
            }
        }
    }

    /// How far it came is the first thing people want to know.
    fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Failed { message, advice } if self.acknowledged > 0 => {
                let message =
                    format!("{message}\n  the first {} records were acknowledged", self.acknowledged);
                Failure::Failed { message, advice }
            }
            other => other,
        }
    }
}

/// Waits for the oldest record's acknowledgement; may be dropped and called again.
async fn first(
    unacknowledged: &mut VecDeque<(Option<ProducerRecord>, DeliveryHandle)>,
) -> Result<Delivery, client::Error> {
    match unacknowledged.front_mut() {
        Some((_, handle)) => handle.await,
        None => std::future::pending().await,
    }
}

fn as_consumed(record: ProducerRecord, delivery: Delivery) -> ConsumedRecord {
    ConsumedRecord {
        topic: record.topic,
        partition: delivery.partition.partition,
        offset: delivery.offset.unwrap_or(Offset(-1)),
        leader_epoch: LeaderEpoch::NONE,
        timestamp: delivery.timestamp,
        timestamp_type: TimestampType::CreateTime,
        key: record.key,
        value: record.value,
        headers: record.headers,
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wire::{PartitionId, Str};

    use super::Template;
    use crate::format::InputRecord;

    fn template() -> Template {
        Template {
            topic: Some(Str::from("t")),
            key: Some(Bytes::from_static(b"k")),
            headers: Vec::new(),
            partition: Some(PartitionId(1)),
            tombstone: true,
        }
    }

    #[test]
    fn what_the_input_says_comes_before_what_the_flags_say() {
        let input = InputRecord {
            topic: Some("u".into()),
            partition: Some(2),
            key: Some(Bytes::from_static(b"own")),
            value: Some(Bytes::from_static(b"v")),
            ..InputRecord::default()
        };
        let record = template().fill(input).unwrap();
        assert_eq!((record.topic.as_ref(), record.partition), ("u", Some(PartitionId(2))));
        assert_eq!(record.key.as_deref(), Some(b"own".as_slice()));
        let record = template().fill(InputRecord::default()).unwrap();
        assert_eq!((record.topic.as_ref(), record.partition), ("t", Some(PartitionId(1))));
        assert_eq!(record.key.as_deref(), Some(b"k".as_slice()));
    }

    #[test]
    fn an_empty_value_is_a_tombstone_only_on_request() {
        let empty = InputRecord { value: Some(Bytes::new()), ..InputRecord::default() };
        assert_eq!(template().fill(empty.clone()).unwrap().value, None);
        let kept = Template { tombstone: false, ..template() };
        assert_eq!(kept.fill(empty).unwrap().value, Some(Bytes::new()));
    }
}
