//! Reads a partition's records from start to end, for the broker's own topics.
//! Blocks, holds one slice in memory at a time, and never sees more than the bound it was given.

use state::coordinator::Replayed;
use storage::{Log, ReadError, ReadLimits};
use wire::Offset;
use wire::records::{Batch, BatchError, Batches, Record};

const SLICE_BYTES_MAX: usize = 1024 * 1024;
/// A batch of the broker's own may not decompress to more.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogReaderError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// One pass over a log.
pub(crate) struct LogReader<'a> {
    log: &'a Log,
    upper: Offset,
}

impl<'a> LogReader<'a> {
    /// A reader of everything below `upper`.
    pub(crate) fn new(log: &'a Log, upper: Offset) -> Self {
        LogReader { log, upper }
    }

    /// Calls `visit` with everything that a coordinator's machine is to take over, in order.
    pub(crate) fn replay(
        &mut self,
        mut visit: impl FnMut(Offset, Replayed<'_>),
    ) -> Result<(), LogReaderError> {
        self.for_each_batch(self.log.log_start(), |batch| {
            let header = batch.header();
            let (attributes, producer) = (header.attributes(), header.producer_id());
            if attributes.is_control() {
                if let Some(commit) = batch.records(BATCH_BYTES_MAX).next().transpose()?.and_then(ended) {
                    visit(header.base_offset(), Replayed::Ended { producer, commit });
                }
                return Ok(());
            }
            for record in batch.records(BATCH_BYTES_MAX) {
                let record = record?;
                let Some(key) = record.key.as_deref() else { continue };
                let value = record.value.as_deref();
                let replayed = match attributes.is_transactional() {
                    true => Replayed::InTransaction { producer, key, value },
                    false => Replayed::Record { key, value },
                };
                visit(record.offset, replayed);
            }
            Ok(())
        })
    }

    /// Calls `visit` with every batch from the one that holds `from` on, in order.
    pub(crate) fn for_each_batch(
        &mut self,
        mut from: Offset,
        mut visit: impl FnMut(&Batch) -> Result<(), BatchError>,
    ) -> Result<(), LogReaderError> {
        while from < self.upper {
            let limits = ReadLimits { bytes_max: SLICE_BYTES_MAX, upper: self.upper, minimum_one: true };
            let slice = self.log.read(from, limits)?;
            let bytes = slice.read()?;
            if bytes.is_empty() {
                break;
            }
            for batch in Batches::new(bytes) {
                let batch = batch?;
                // What is decided from these records must not be decided from others.
                batch.verify_crc()?;
                from = batch.header().last_offset().plus(1);
                visit(&batch)?;
            }
        }
        Ok(())
    }
}

/// Whether a control record commits a transaction, or aborts it; nothing if it is of another kind.
fn ended(record: Record) -> Option<bool> {
    let [_, _, kind @ ..] = record.key.as_deref()?.first_chunk::<4>()?;
    match i16::from_be_bytes(*kind) {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
