//! What one client's flood costs the others: end-to-end latency at a steady rate while all is calm, while another client
//! produces as fast as it can, and while that client has a quota.
//! The flood runs before the latency is measured and until after; each run has fresh topics. Both sides have the quota set by
//! Kafka's own tool.

use super::broker::Site;
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options};
use super::process;
use super::service::Service;
use super::tools::{Workshop, figure, figures};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

const PARTITIONS: u32 = 12;
const RECORD_BYTES: &str = "1024";
/// Of those who are to be left alone.
const RATE: u32 = 500;
const WARM_UP_SECONDS: u64 = 5;
/// The flood's quota. Ten seconds' worth may be taken at once; it has to be used up before anything is measured.
const QUOTA_BYTES_PER_S: u32 = 5_000_000;
const FLOOD_BEFORE: Duration = Duration::from_secs(4);
const FLOOD: &str = "flood";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Calm,
    Flood,
    Held,
}

impl Weather {
    const ALL: [Self; 3] = [Self::Calm, Self::Flood, Self::Held];

    fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Flood => "flood without a quota",
            Self::Held => "flood with a quota of 5 MB/s",
        }
    }
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let mut latencies =
        Weather::ALL.map(|weather| Figure::new(Kind::Flood, format!("p99, {}", weather.name()), Goal::Shown));
    let mut share = Figure::new(Kind::FloodShare, Weather::Held.name(), Goal::AtMost(2.0));
    for peer in &options.peers {
        let site = Site::prepare(workshop, *peer, Durability::PageCache)?;
        let (broker, _) = site.start()?;
        let service = broker.service();
        run(workshop, &service, WARM_UP_SECONDS)?;
        for _ in 0..options.pairs {
            let mut calm = 0.0;
            for (weather, latency) in Weather::ALL.into_iter().zip(&mut latencies) {
                let p99 = measure_in(workshop, &service, weather, options.latency_seconds)?;
                println!("flood {peer}: p99 {p99:.2} ms, {}", weather.name());
                latency.side(*peer).0.push(p99);
                match weather {
                    Weather::Calm => calm = p99,
                    Weather::Flood => {}
                    Weather::Held => share.side(*peer).0.push(p99 / calm),
                }
            }
        }
    }
    findings.figures.extend(latencies);
    findings.figures.push(share);
    Ok(())
}

fn measure_in(workshop: &Workshop, service: &Service, weather: Weather, seconds: u64) -> Result<f64, String> {
    if weather == Weather::Calm {
        return run(workshop, service, seconds);
    }
    quota(workshop, service, weather == Weather::Held)?;
    let target = service.target(FLOOD, PARTITIONS);
    workshop.create(target)?;
    let mut flood = workshop.on("produce", target);
    flood.args(["--size", RECORD_BYTES, "--records", "1000000000", "--set", "client.id=flood"]);
    let flood = flood.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut flood = Flood(flood.map_err(|error| format!("the flood: {error}"))?);
    thread::sleep(FLOOD_BEFORE);
    let p99 = run(workshop, service, seconds)?;
    if let Ok(Some(status)) = flood.0.try_wait() {
        return Err(format!("the flood has ended by itself: {status}"));
    }
    drop(flood);
    workshop.delete(target)?;
    Ok(p99)
}

/// A client that is ended with its value.
struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn quota(workshop: &Workshop, service: &Service, is_set: bool) -> Result<(), String> {
    const KEY: &str = "producer_byte_rate";
    let client = ("clients", FLOOD);
    if is_set {
        let quota = format!("{KEY}={QUOTA_BYTES_PER_S}");
        return workshop.configure(service, client, ("--add-config", &quota));
    }
    // Kafka's tool refuses to delete what is not there.
    let _ = workshop.configure(service, client, ("--delete-config", KEY));
    Ok(())
}

fn run(workshop: &Workshop, service: &Service, seconds: u64) -> Result<f64, String> {
    let target = service.target("steady", PARTITIONS);
    workshop.create(target)?;
    process::sync()?;
    let mut load = workshop.on("latency", target);
    load.args(["--size", RECORD_BYTES, "--rate", &RATE.to_string(), "--seconds", &seconds.to_string()]);
    let printed = figures(&mut load)?;
    workshop.delete(target)?;
    figure(&printed, "p99_ms")
}
