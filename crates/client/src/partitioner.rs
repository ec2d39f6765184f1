//! Which partition a record goes to when nobody says.
//!
//! A key always goes where Apache Kafka's default partitioner sends it (murmur2 with its seed, sign bit
//! cleared, modulo the number of partitions), so records of one key meet whatever client wrote them. Records
//! without a key stick to one partition until a batch is full, then move on, which makes fuller batches.

use wire::PartitionId;

/// MurmurHash2, 32 bits, with the seed that Kafka uses.
pub fn murmur2(data: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let (chunks, tail) = data.as_chunks::<4>();
    for chunk in chunks {
        let mut word = u32::from_le_bytes(*chunk).wrapping_mul(MULTIPLIER);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition that Kafka's default partitioner gives a key.
///
/// # Panics
/// When `partitions` is zero: a topic has at least one.
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionId {
    assert!(partitions > 0);
    PartitionId(((murmur2(key) & 0x7fff_ffff) % partitions) as i32)
}

/// The partition that records without a key go to at the moment.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    current: Option<PartitionId>,
}

impl Sticky {
    /// The current choice among `available`; makes one when there is none or it is no longer available.
    pub(crate) fn choose(&mut self, available: &[PartitionId], random: impl FnOnce() -> u64) -> PartitionId {
        assert!(!available.is_empty());
        match self.current {
            Some(current) if available.contains(&current) => current,
            _ => {
                let chosen = available[(random() % available.len() as u64) as usize];
                self.current = Some(chosen);
                chosen
            }
        }
    }

    /// The partition got a full batch: the next record goes elsewhere, if there is an elsewhere.
    pub(crate) fn move_on(
        &mut self,
        full: PartitionId,
        available: &[PartitionId],
        random: impl FnOnce() -> u64,
    ) {
        if self.current != Some(full) || available.len() < 2 {
            return;
        }
        let others = available.iter().filter(|&&partition| partition != full);
        self.current = others.clone().nth((random() % others.count() as u64) as usize).copied();
    }
}

#[cfg(test)]
mod tests {
    use wire::PartitionId;

    use super::{Sticky, murmur2, partition_for_key};

    #[test]
    fn hashes_are_those_of_apache_kafka() {
        // The vectors of org.apache.kafka.common.utils.UtilsTest.
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key) as i32, hash, "{}", key.escape_ascii());
        }
        assert_eq!(partition_for_key(b"foobar", 12), PartitionId((0x7fff_ffff & -790_332_482_i32) % 12));
    }

    #[test]
    fn records_without_a_key_stay_together_until_their_batch_is_full() {
        let partitions: Vec<_> = (0..3).map(PartitionId).collect();
        let mut sticky = Sticky::default();
        assert_eq!(sticky.choose(&partitions, || 4), PartitionId(1));
        assert_eq!(sticky.choose(&partitions, || 5), PartitionId(1));
        sticky.move_on(PartitionId(1), &partitions, || 1);
        assert_eq!(sticky.choose(&partitions, || 0), PartitionId(2));
        sticky.move_on(PartitionId(1), &partitions, || 0);
        assert_eq!(
            sticky.choose(&partitions, || 0),
            PartitionId(2),
            "another partition's batch is no reason"
        );
        assert_eq!(sticky.choose(&partitions[..1], || 0), PartitionId(0), "the partition went offline");
    }
}
