//! Looking for rot: what was flushed is read again, a part at a time, and its checksums are compared.
//!
//! Rot is not repaired here and nothing is cut by itself: whoever has another copy removes what cannot be vouched for, and
//! takes it from there. Invariant: what was removed or replaced while it was read is never taken for rot.

use wire::{Millis, Offset};

use super::Log;
use crate::{
    error::StorageError,
    header::crc_matches,
    walk::{BatchWalk, Stop},
};

/// Where to read on.
#[derive(Clone, Copy, Debug)]
pub struct ScrubPoint {
    segment: Offset,
    position: u64,
    /// The last batch that was sound, and the offset after it.
    sound: Option<(Offset, Offset)>,
    generation: u64,
}

/// What a part was like.
#[derive(Clone, Copy, Debug)]
pub enum Scrubbed {
    /// Sound, up to a point from which to read on.
    Until(ScrubPoint),
    /// Sound to the flushed end.
    Sound,
    /// Not what was once written.
    Rotten(Rot),
}

/// Where a log cannot be vouched for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rot {
    /// The last batch before it that is sound, if any.
    pub sound: Option<Offset>,
}

impl Log {
    /// Reads about so many bytes from a point or the beginning on. Returns how many it read. Blocks.
    pub fn scrub(&self, from: Option<ScrubPoint>, bytes_max: u64) -> Result<(Scrubbed, u64), StorageError> {
        self.check_open()?;
        let generation = self.generation();
        let (segments, log_start, flushed_end) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start, view.flushed_end)
        };
        let from = from.unwrap_or(ScrubPoint { segment: Offset::ZERO, position: 0, sound: None, generation });
        let mut sound = from.sound.filter(|(_, end)| *end > log_start);
        let mut bytes = 0;
        for segment in segments.iter().filter(|segment| segment.base() >= from.segment) {
            let is_there = segment.base() == from.segment && from.generation == generation;
            let file = segment.file().map_err(StorageError::disk(self.path()))?;
            let start = if is_there { from.position } else { 0 };
            let mut walk = BatchWalk::new(file, start, segment.size());
            loop {
                let position = walk.position();
                if bytes >= bytes_max {
                    let point = ScrubPoint { segment: segment.base(), position, sound, generation };
                    return Ok((Scrubbed::Until(point), bytes));
                }
                match walk.next() {
                    Ok(None) => break,
                    // What lies behind may still be on its way to the file.
                    Ok(Some((header, _))) if header.base_offset >= flushed_end => {
                        return Ok((Scrubbed::Sound, bytes));
                    }
                    Ok(Some((header, batch))) if crc_matches(batch) => {
                        sound = Some((header.base_offset, header.next_offset()));
                        bytes += header.size;
                    }
                    Err(Stop::Disk(error)) if error.kind() == std::io::ErrorKind::NotFound => break,
                    Ok(Some(_)) | Err(_) => {
                        let is_flushed = sound.map_or(log_start, |(_, end)| end) < flushed_end;
                        // What was cut or replaced meanwhile is looked at anew some other time.
                        if is_flushed && self.generation() == generation {
                            let sound = sound.map(|(base, _)| base);
                            return Ok((Scrubbed::Rotten(Rot { sound }), bytes));
                        }
                        return Ok((Scrubbed::Sound, bytes));
                    }
                }
            }
        }
        Ok((Scrubbed::Sound, bytes))
    }

    /// Removes everything that scrubbing could not vouch for, and the last sound batch with it: the next one cannot be
    /// looked at to find its end. Blocks.
    pub fn cut_rot(&self, rot: Rot, now: Millis) -> Result<(), StorageError> {
        match rot.sound {
            Some(sound) => self.truncate_to(sound, now),
            None => self.truncate_fully_at(self.log_start()),
        }
    }
}
