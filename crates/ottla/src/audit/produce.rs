//! `ottla audit produce`: records with stamps at a steady rate.
//!
//! What is sent is numbered without gaps. A record whose delivery failed - nobody knows whether it is there - is followed by
//! one that says so, in its partition, so that `ottla audit verify` does not take it for lost.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use client::{Acks, DeliveryHandle, ErrorKind, ProducerRecord};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};
use wire::Str;

use super::stamp::{Carrier, Stamp};
use super::traffic::Writer;
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report};
use crate::stop::Stop;

/// Records sent whose acknowledgement is still to come.
const UNDER_WAY_MAX: usize = 10_000;
/// How often records are sent.
const BEAT: Duration = Duration::from_millis(5);

/// Produce records with stamps, at a steady rate
#[derive(Debug, Args)]
#[command(after_help = "\
Records are written as `ottla produce` does, by an idempotent producer with acks=all. At the end
it says how many numbers it gave out, for `ottla audit verify --run RUN --expect NUMBER`. Exit
code 1 when a record was not acknowledged within delivery.timeout.ms (-X
delivery.timeout.ms=600000).

Examples:
  ottla audit produce orders --rate 1000 --keys 50 --duration 10m
  ottla audit produce orders --field meta.audit --size 1000     # the stamp in the JSON value")]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: String,
    /// Records a second, of all keys together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How many keys there are
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// End after this long [default: never]
    #[arg(long, value_parser = super::duration)]
    duration: Option<Duration>,
    /// Bytes of a record's value, about
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=900_000))]
    size: u32,
    /// Name of this run [default: a random one]
    #[arg(long)]
    run: Option<String>,
    /// Put the stamp into this field of a JSON value instead of a header
    #[arg(long, value_name = "NAME[.NAME]")]
    field: Option<String>,
}

pub(super) async fn run(args: ProduceArgs, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| options.acks = Acks::All).await?;
    let mut producing = Producing {
        topic: Str::copy_from(&args.topic),
        run: args.run.unwrap_or_else(super::fresh_run),
        carrier: Carrier::new(args.field.as_deref()),
        keys: u64::from(args.keys),
        bytes: args.size as usize,
        writer: Writer::new(cluster)?,
        under_way: VecDeque::new(),
        voids: VecDeque::new(),
        given_out: 0,
        acknowledged: 0,
        failed: 0,
        in_doubt: 0,
    };
    let began = Instant::now();
    let outcome = producing.send_all(f64::from(args.rate), args.duration).await;
    let Producing { writer, run, given_out, acknowledged, failed, in_doubt, .. } = producing;
    let closed = writer.close().await;
    outcome?;
    closed?;
    let mut report =
        Report::new(&["run", "keys", "sequences", "acknowledged", "failed", "in_doubt", "seconds"]);
    report.row(vec![
        run.as_str().into(),
        args.keys.into(),
        given_out.into(),
        acknowledged.into(),
        failed.into(),
        in_doubt.into(),
        Value::from((began.elapsed().as_secs_f64() * 10.0).round() / 10.0),
    ]);
    output.print(&report)?;
    if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}

struct Producing {
    topic: Str,
    run: String,
    carrier: Carrier,
    keys: u64,
    bytes: usize,
    writer: Writer,
    under_way: VecDeque<(Sent, DeliveryHandle)>,
    /// Numbers of which it is to be said that they failed.
    voids: VecDeque<u64>,
    /// Numbers so far, of all keys together.
    given_out: u64,
    acknowledged: u64,
    failed: u64,
    /// Of those, the ones of which not even that could be said.
    in_doubt: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Over all keys, which take turns.
    number: u64,
    void: bool,
}

impl Producing {
    async fn send_all(&mut self, rate: f64, duration: Option<Duration>) -> Result<(), Failure> {
        let mut total = duration.map_or(u64::MAX, |duration| (duration.as_secs_f64() * rate).ceil() as u64);
        let mut stop = Stop::listen(false)?;
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let progress = Progress::new();
        let began = Instant::now();
        while self.given_out < total || !self.voids.is_empty() || !self.under_way.is_empty() {
            tokio::select! {
                biased;
                () = stop.asked(), if self.given_out < total => total = self.given_out,
                (sent, delivery) = first(&mut self.under_way), if !self.under_way.is_empty() => {
                    self.under_way.pop_front();
                    self.settle(sent, delivery.map(drop))?;
                }
                _ = beats.tick(), if self.under_way.len() < UNDER_WAY_MAX => {
                    let due = ((began.elapsed().as_secs_f64() * rate) as u64 + 1).min(total);
                    self.send_due(due).await?;
                    progress.show_often(format_args!(
                        "{} sent, {} acknowledged, {} failed, {:.0}/s",
                        self.given_out, self.acknowledged, self.failed,
                        self.given_out as f64 / began.elapsed().as_secs_f64().max(0.001)
                    ));
                }
            }
        }
        Ok(())
    }

    async fn send_due(&mut self, due: u64) -> Result<(), Failure> {
        while self.under_way.len() < UNDER_WAY_MAX {
            let sent = match self.voids.pop_front() {
                Some(number) => Sent { number, void: true },
                None if self.given_out < due => {
                    self.given_out += 1;
                    Sent { number: self.given_out - 1, void: false }
                }
                None => return Ok(()),
            };
            match self.writer.send(self.record(sent)).await {
                Ok(handle) => self.under_way.push_back((sent, handle)),
                Err(error) => self.settle(sent, Err(error))?,
            }
        }
        Ok(())
    }

    fn record(&self, sent: Sent) -> ProducerRecord {
        let key = format!("k{}", sent.number % self.keys);
        let stamp = Stamp {
            run: self.run.clone(),
            key: key.clone(),
            sequence: sent.number / self.keys,
            time: super::now(),
            void: sent.void,
        };
        let (headers, value) = self.carrier.write(&stamp, self.bytes);
        ProducerRecord {
            key: Some(Bytes::from(key)),
            headers,
            timestamp: Some(stamp.time),
            ..ProducerRecord::new(self.topic.clone(), value)
        }
    }

    fn settle(&mut self, sent: Sent, outcome: Result<(), client::Error>) -> Result<(), Failure> {
        match (outcome, sent.void) {
            (Ok(()), false) => self.acknowledged += 1,
            (Ok(()), true) => {}
            // What can never be sent is no matter of delivery.
            (Err(error), _) if error.kind() != ErrorKind::Retriable => return Err(error.into()),
            (Err(error), false) => {
                tracing::warn!(%error, number = sent.number, "a record was not acknowledged");
                self.failed += 1;
                self.voids.push_back(sent.number);
            }
            (Err(_), true) => self.in_doubt += 1,
        }
        Ok(())
    }
}

/// Waits for the oldest record's acknowledgement; may be dropped and called again.
async fn first(
    under_way: &mut VecDeque<(Sent, DeliveryHandle)>,
) -> (Sent, Result<client::Delivery, client::Error>) {
    match under_way.front_mut() {
        Some((sent, handle)) => (*sent, handle.await),
        None => std::future::pending().await,
    }
}
