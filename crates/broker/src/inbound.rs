//! Bytes from a socket, cut into frames.
//!
//! Memory grows with what has arrived, never with what a length field claims. A frame leaves as a slice of the
//! buffer without a copy; the buffer is reused once the slice is dropped, so that a connection which sends
//! megabytes a second allocates once.

use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is reserved for the next read when nothing is known of it.
const READ_BYTES_MIN: usize = 8 * 1024;
/// How far ahead of the received bytes the buffer may grow at once.
const GROWTH_BYTES_MIN: usize = 64 * 1024;
/// A buffer larger than this is given back when its connection falls silent.
const IDLE_BYTES_MAX: usize = 32 * 1024;

const LENGTH_BYTES: usize = 4;

/// A length field outside what the listener accepts.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a frame of {claimed} bytes: allowed are 0 to {allowed_max} (socket.request.max.bytes){}", looks_like(*claimed))]
pub(crate) struct FrameSizeError {
    pub(crate) claimed: i32,
    pub(crate) allowed_max: usize,
}

/// What other protocols begin with, read as a length.
fn looks_like(claimed: i32) -> &'static str {
    match &claimed.to_be_bytes() {
        b"GET " | b"HEAD" | b"POST" | b"PUT " | b"PRI " => "; the peer seems to speak HTTP",
        [0x16, 0x03, ..] => "; the peer seems to speak TLS",
        _ => "",
    }
}

/// The receive buffer of one connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Inbound {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Inbound { buffer: BytesMut::new(), frame_bytes_max }
    }

    /// Bytes that were received and not taken.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, without its length field; `None` until all of it has arrived.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Bytes>, FrameSizeError> {
        let Some(frame_bytes) = self.claimed_bytes()? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + frame_bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(frame_bytes).freeze()))
    }

    /// The length of the frame that is awaited, if it is larger than what a buffer holds anyway.
    pub(crate) fn large_frame(&self) -> Option<usize> {
        let frame_bytes = self.claimed_bytes().ok().flatten()?;
        (frame_bytes > GROWTH_BYTES_MIN && self.buffer.len() < LENGTH_BYTES + frame_bytes)
            .then_some(frame_bytes)
    }

    /// The buffer with room for the next read, and no more: what a read takes past the frame that is awaited has to
    /// be moved when that frame leaves.
    pub(crate) fn reserve(&mut self) -> Limit<&mut BytesMut> {
        let received = self.buffer.len();
        let missing = match self.claimed_bytes() {
            Ok(Some(frame_bytes)) => (LENGTH_BYTES + frame_bytes).saturating_sub(received),
            Ok(None) | Err(_) => 0,
        };
        // Room for the start of the next frame too, so that a busy sender is read in few calls.
        let wanted = (missing + READ_BYTES_MIN).min(received.max(GROWTH_BYTES_MIN));
        self.buffer.reserve(wanted);
        (&mut self.buffer).limit(wanted)
    }

    /// True when an idle connection holds more memory than it should.
    pub(crate) fn is_oversized(&self) -> bool {
        self.buffer.is_empty() && self.buffer.capacity() > IDLE_BYTES_MAX
    }

    /// Gives the memory of an empty buffer back.
    pub(crate) fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    fn claimed_bytes(&self) -> Result<Option<usize>, FrameSizeError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let claimed = i32::from_be_bytes(*length);
        match usize::try_from(claimed) {
            Ok(frame_bytes) if frame_bytes <= self.frame_bytes_max => Ok(Some(frame_bytes)),
            _ => Err(FrameSizeError { claimed, allowed_max: self.frame_bytes_max }),
        }
    }
}

/// The memory that large frames of all connections share while they arrive (`queued.max.request.bytes`). A frame has its
/// whole share before it is read on, first come, first served, so that whichever has one can end.
#[derive(Debug, Default)]
pub(crate) struct InboundBudget {
    /// One permit a KiB; none without a bound.
    shares: Option<(Arc<Semaphore>, u32)>,
}

/// What a frame takes of the budget, until it is dropped.
pub(crate) type Share = Option<OwnedSemaphorePermit>;

impl InboundBudget {
    pub(crate) fn new(bytes_max: Option<u64>) -> Self {
        let shares = bytes_max.map(|bytes| {
            let count = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
            (Arc::new(Semaphore::new(count as usize)), count)
        });
        InboundBudget { shares }
    }

    /// Waits for the share of a frame. One that is larger than the budget waits for all of it.
    pub(crate) fn share(&self, frame_bytes: usize) -> impl Future<Output = Share> + Send + use<> {
        let shares = self.shares.as_ref().map(|(shares, count)| (Arc::clone(shares), *count));
        let wanted = u32::try_from(frame_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        async move {
            let (shares, count) = shares?;
            // It is never closed.
            shares.acquire_many_owned(wanted.min(count)).await.ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame_bytes_max: usize, arrivals: &[&[u8]]) -> Result<Vec<Bytes>, FrameSizeError> {
        let mut inbound = Inbound::new(frame_bytes_max);
        let mut frames = Vec::new();
        for arrival in arrivals {
            inbound.reserve().put_slice(arrival);
            while let Some(frame) = inbound.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let bytes = b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de";
        for split in 0..bytes.len() {
            let (head, tail) = bytes.split_at(split);
            assert_eq!(check(10, &[head, tail]).unwrap(), ["abc", "", "de"]);
        }
    }

    #[test]
    fn a_length_outside_the_limit_is_refused_before_the_frame_arrives() {
        let refused = |claimed| Err(FrameSizeError { claimed, allowed_max: 10 });
        assert_eq!(check(10, &[&11_i32.to_be_bytes()]), refused(11));
        assert_eq!(check(10, &[&(-1_i32).to_be_bytes()]), refused(-1));
    }

    #[test]
    fn other_protocols_are_called_by_their_names() {
        let error = |bytes| check(10, &[bytes]).unwrap_err().to_string();
        assert!(error(b"GET ").ends_with("; the peer seems to speak HTTP"));
        assert!(error(b"\x16\x03\x01\x02").ends_with("; the peer seems to speak TLS"));
        assert!(error(b"\x7f\0\0\0").ends_with("(socket.request.max.bytes)"));
    }

    #[test]
    fn a_claim_takes_no_memory() {
        let mut inbound = Inbound::new(1 << 30);
        inbound.reserve().put_slice(&(1_i32 << 30).to_be_bytes());
        assert!(inbound.reserve().get_ref().capacity() <= 2 * GROWTH_BYTES_MIN);
    }

    #[test]
    fn a_steady_sender_of_large_frames_does_not_allocate_again() {
        let mut inbound = Inbound::new(1 << 20);
        let mut frame = (1_i32 << 20).to_be_bytes().to_vec();
        frame.resize(4 + (1 << 20), 7);
        let mut capacity_after = Vec::new();
        for _ in 0..8 {
            for part in frame.chunks(READ_BYTES_MIN) {
                inbound.reserve().put_slice(part);
            }
            assert_eq!(inbound.next_frame().unwrap().unwrap().len(), 1 << 20);
            capacity_after.push(inbound.reserve().get_ref().capacity());
        }
        assert_eq!(capacity_after[1], capacity_after[7]);
    }

    #[tokio::test]
    async fn large_frames_share_the_budget_and_one_larger_than_it_takes_it_whole() {
        let budget = InboundBudget::new(Some(1 << 20));
        let first = budget.share(600 << 10).await;
        let second = tokio::spawn(budget.share(600 << 10));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        drop(second.await.unwrap());
        assert!(budget.share(1 << 30).await.is_some());
        assert!(InboundBudget::new(None).share(1 << 30).await.is_none());
    }
}
