//! What the caller asked for: which parts, which cells, how many pairs.
//! The whole matrix is written here once, and `--quick` is a subset of it, so that a quick figure is comparable with a
//! full one. It never changes what is measured within a cell.

use super::cluster::REPLICATION;
use crate::arguments::Arguments;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) pairs: usize,
    /// How long a produce run should last.
    pub(crate) seconds: f64,
    pub(crate) latency_seconds: u64,
    /// How often 2,000 partitions are killed on each side.
    pub(crate) restarts: usize,
    /// How often a broker of a cluster is killed under each client.
    pub(crate) kills: usize,
    /// How many partitions the growth is measured at.
    pub(crate) growth: &'static [u32],
    pub(crate) scale: Scale,
    /// How long all cells may take; cells share it equally.
    pub(crate) throughput_wait_max: Duration,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) docs: Docs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Docs {
    Keep,
    Rewrite,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Throughput,
    Latency,
    /// One client's flood under the others.
    Flood,
    Lifecycle,
    /// Three brokers, replication 3.
    Replicated,
    /// The same cluster.
    Transactions,
    Groups,
    Compaction,
    Failover,
    Scale,
    Growth,
    /// Ottla's own client beside others.
    Clients,
    /// Topics into tables and topics, beside a Python program.
    Sink,
}

impl Part {
    const ALL: [Self; 13] = [
        Self::Lifecycle,
        Self::Latency,
        Self::Flood,
        Self::Throughput,
        Self::Replicated,
        Self::Transactions,
        Self::Groups,
        Self::Compaction,
        Self::Failover,
        Self::Scale,
        Self::Growth,
        Self::Clients,
        Self::Sink,
    ];
    /// What `cluster` stands for.
    const OF_CLUSTERS: [Self; 4] = [Self::Replicated, Self::Failover, Self::Scale, Self::Growth];
    /// What `delivery` stands for.
    const OF_DELIVERY: [Self; 4] = [Self::Transactions, Self::Groups, Self::Flood, Self::Compaction];
}

/// How much of what is measured with many partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    Whole,
    Quick,
}

/// The two sides, in the order in which a pair runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    Ottla,
    Kafka,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Generator {
    Librdkafka,
    Java,
}

/// What acks=all waits for, on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    PageCache,
    Flush,
}

impl Durability {
    pub(crate) const BOTH: [Self; 2] = [Self::PageCache, Self::Flush];
}

/// One row of the throughput matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub(crate) generator: Generator,
    pub(crate) record_bytes: u64,
    pub(crate) partitions: u32,
    /// Replicas of each partition, on as many brokers.
    pub(crate) replication: u32,
    pub(crate) durability: Durability,
}

const PAIRS_DEFAULT: u64 = 3;
const PAIRS_MAX: u64 = 25;
const SECONDS_DEFAULT: u64 = 2;
const SECONDS_MAX: u64 = 60;
const KILLS_DEFAULT: u64 = 25;
const KILLS_QUICK: u64 = 2;
const KILLS_MAX: u64 = 500;
const GROWTH: &[u32] = &[10, 100, 1_000, 4_000];
const GROWTH_QUICK: &[u32] = &[10, 100];
const MINUTES_DEFAULT: u64 = 13;
const MINUTES_QUICK: u64 = 2;
const MINUTES_MAX: u64 = 24 * 60;

impl Options {
    pub(crate) fn read(mut arguments: Arguments) -> Result<Self, String> {
        let quick = arguments.flag("--quick");
        let mut cells = matrix();
        if quick {
            cells.retain(Cell::is_quick);
        }
        if let Some(names) = arguments.value("--cells")? {
            let wanted: Vec<&str> = names.split(',').collect();
            cells.retain(|cell| wanted.iter().any(|part| cell.to_string().contains(part)));
        }
        let parts = match arguments.value("--parts")? {
            Some(names) => parts(&names)?,
            None => Part::ALL.to_vec(),
        };
        let peers = match arguments.value("--peer")? {
            Some(names) => list(&names)?,
            None => vec![Peer::Ottla, Peer::Kafka],
        };
        let pairs = bounded(&mut arguments, "--pairs", if quick { 2 } else { PAIRS_DEFAULT }, PAIRS_MAX)?;
        let seconds = bounded(&mut arguments, "--seconds", SECONDS_DEFAULT, SECONDS_MAX)?;
        let kills =
            bounded(&mut arguments, "--kills", if quick { KILLS_QUICK } else { KILLS_DEFAULT }, KILLS_MAX)?;
        let minutes_default = if quick { MINUTES_QUICK } else { MINUTES_DEFAULT };
        let minutes = bounded(&mut arguments, "--minutes", minutes_default, MINUTES_MAX)?;
        let binary = arguments.value("--binary")?.map(PathBuf::from);
        let docs = if arguments.flag("--docs") { Docs::Rewrite } else { Docs::Keep };
        arguments.finish()?;
        let wants_cells = parts.contains(&Part::Throughput) || parts.contains(&Part::Replicated);
        if cells.is_empty() && wants_cells {
            return Err("no cell has such a name".to_owned());
        }
        Ok(Self {
            parts,
            cells,
            peers,
            pairs: pairs as usize,
            seconds: seconds as f64,
            latency_seconds: if quick { 5 } else { 8 },
            restarts: if quick { 1 } else { pairs as usize },
            kills: kills as usize,
            growth: if quick { GROWTH_QUICK } else { GROWTH },
            scale: if quick { Scale::Quick } else { Scale::Whole },
            throughput_wait_max: Duration::from_secs(minutes * 60),
            binary,
            docs,
        })
    }
}

fn bounded(arguments: &mut Arguments, name: &str, default: u64, max: u64) -> Result<u64, String> {
    match arguments.number(name, default)? {
        value if (1..=max).contains(&value) => Ok(value),
        _ => Err(format!("{name} must be 1 to {max}")),
    }
}

fn matrix() -> Vec<Cell> {
    let mut cells = Vec::new();
    for durability in Durability::BOTH {
        for generator in [Generator::Librdkafka, Generator::Java] {
            for record_bytes in [1024, 100] {
                for partitions in [1, 12, 200] {
                    cells.push(Cell { generator, record_bytes, partitions, replication: 1, durability });
                }
            }
            let replicated = |record_bytes| Cell {
                generator,
                record_bytes,
                partitions: 12,
                replication: REPLICATION,
                durability,
            };
            cells.push(replicated(1024));
        }
    }
    cells
}

impl Cell {
    fn is_quick(&self) -> bool {
        if self.replication > 1 {
            return self.durability == Durability::Flush;
        }
        match self.generator {
            Generator::Librdkafka => {
                self.partitions == 12 || (self.partitions == 200 && self.record_bytes == 100)
            }
            Generator::Java => self.partitions == 12 && self.record_bytes == 1024,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generator, record_bytes, partitions, replication, durability } = self;
        write!(f, "{generator}/{record_bytes}B/{partitions}p")?;
        if *replication > 1 {
            write!(f, "×{replication}")?;
        }
        write!(f, "/{durability}")
    }
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Librdkafka => "librdkafka",
            Self::Java => "java",
        })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PageCache => "pagecache",
            Self::Flush => "flush",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Flood => "flood",
            Self::Lifecycle => "lifecycle",
            Self::Replicated => "replicated",
            Self::Transactions => "transactions",
            Self::Groups => "groups",
            Self::Compaction => "compaction",
            Self::Failover => "failover",
            Self::Scale => "scale",
            Self::Growth => "growth",
            Self::Clients => "clients",
            Self::Sink => "sink",
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ottla => "ottla",
            Self::Kafka => "kafka",
        })
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let part = Self::ALL.into_iter().find(|part| part.to_string() == word);
        part.ok_or_else(|| format!("no part is called {word:?}"))
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "ottla" => Ok(Self::Ottla),
            "kafka" => Ok(Self::Kafka),
            _ => Err(format!("no peer is called {word:?}")),
        }
    }
}

fn parts(words: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for word in words.split(',') {
        match word {
            "cluster" => parts.extend(Part::OF_CLUSTERS),
            "delivery" => parts.extend(Part::OF_DELIVERY),
            _ => parts.push(word.parse()?),
        }
    }
    Ok(parts)
}

fn list<T: FromStr<Err = String>>(words: &str) -> Result<Vec<T>, String> {
    words.split(',').map(str::parse).collect()
}
