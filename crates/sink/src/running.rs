//! How a run goes about it, besides what is declared.

use crate::gate::Gate;
use crate::meter::Meter;
use crate::run::Until;

/// What a run is told by whoever starts it.
#[derive(Debug, Clone)]
pub struct Running {
    /// When to end.
    pub until: Until,
    /// How many bytes may be read in a second by all lines together, in place of what is declared.
    pub throttle: Option<u64>,
    /// Whether it begins with what is old.
    pub pace: Pace,
    /// Where it tells what it does.
    pub meter: Meter,
}

/// The same for one of the lines.
pub(crate) struct Orders {
    pub(crate) running: Running,
    pub(crate) gate: Gate,
}

/// How files are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As is declared.
    Live,
    /// Partitions that were never read are read from their beginning; and up to where each ended when it was taken hold of, files are
    /// closed by their size alone.
    Backfill,
}

impl From<Until> for Running {
    fn from(until: Until) -> Self {
        Self { until, throttle: None, pace: Pace::Live, meter: Meter::default() }
    }
}
