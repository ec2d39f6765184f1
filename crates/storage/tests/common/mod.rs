//! What the tests share: batches in one line, a data directory on any disk, a log read to its end, and numbers
//! that come from a seed.
#![allow(dead_code, unreachable_pub)]

use std::{path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use storage::{Append, DataDir, DataDirOptions, Disk, Log, LogConfig, Origin, ReadLimits};
use wire::{
    BrokerId, LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition, Uuid,
    compression::Compression,
    records::{Batch, BatchBuilder, BatchOptions, Batches},
};

/// A seeded generator (xorshift64*); a test prints its seed.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

pub fn partition() -> TopicPartition {
    TopicPartition { topic: Str::copy_from("orders"), partition: PartitionId(3) }
}

pub fn topic_id() -> Uuid {
    Uuid::from_u128(0x0123_4567_89ab_cdef)
}

pub fn options() -> DataDirOptions {
    DataDirOptions {
        node_id: BrokerId(1),
        cluster_id: None,
        new_cluster_id: Str::copy_from("test-cluster"),
        new_directory_id: Uuid::from_u128(7),
    }
}

pub fn open_dir(disk: Arc<dyn Disk>, path: &str) -> DataDir {
    DataDir::open(disk, Path::new(path), options()).expect("the data directory opens")
}

pub fn open_log(dir: &DataDir, config: LogConfig) -> Arc<Log> {
    dir.open_log(&partition(), topic_id(), config, Millis(0)).expect("the log opens")
}

/// A batch from a producer.
#[derive(Clone, Debug)]
pub struct Make {
    pub values: Vec<(Option<String>, Option<String>)>,
    pub timestamps: Vec<i64>,
    pub compression: Compression,
    pub producer: Option<(i64, i16, i32)>,
    pub is_transactional: bool,
}

pub fn make(values: &[&str]) -> Make {
    Make {
        values: values.iter().map(|value| (None, Some((*value).to_owned()))).collect(),
        timestamps: vec![1000],
        compression: Compression::None,
        producer: None,
        is_transactional: false,
    }
}

pub fn make_keyed(records: &[(&str, Option<&str>)]) -> Make {
    let values = records.iter().map(|(key, value)| (Some((*key).to_owned()), value.map(str::to_owned)));
    Make { values: values.collect(), ..make(&[]) }
}

impl Make {
    /// Timestamps, the last one for all further records.
    pub fn at(mut self, timestamps: &[i64]) -> Make {
        self.timestamps = timestamps.to_vec();
        self
    }

    pub fn with(mut self, compression: Compression) -> Make {
        self.compression = compression;
        self
    }

    pub fn by(mut self, producer: i64, epoch: i16, sequence: i32) -> Make {
        self.producer = Some((producer, epoch, sequence));
        self
    }

    pub fn in_transaction(mut self) -> Make {
        self.is_transactional = true;
        self
    }

    pub fn bytes(&self) -> Bytes {
        let (id, epoch, sequence) = self.producer.unwrap_or((-1, -1, -1));
        let mut builder = BatchBuilder::new(BatchOptions {
            compression: self.compression,
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            is_transactional: self.is_transactional,
            ..BatchOptions::default()
        });
        for (at, (key, value)) in self.values.iter().enumerate() {
            let timestamp = *self.timestamps.get(at).or(self.timestamps.last()).expect("a timestamp");
            builder.append(
                Millis(timestamp),
                key.as_ref().map(|key| key.as_bytes()),
                value.as_ref().map(|value| value.as_bytes()),
                &[],
            );
        }
        builder.build()
    }
}

/// An end-of-transaction marker.
pub fn marker(producer: i64, epoch: i16, commit: bool) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        is_transactional: true,
        is_control: true,
        ..BatchOptions::default()
    });
    let key = [0, 0, 0, u8::from(commit)];
    builder.append(Millis(1000), Some(&key), Some(&[0, 0, 0, 0, 0, 0]), &[]);
    builder.build()
}

pub fn as_leader(now: i64) -> Append {
    Append { leader_epoch: LeaderEpoch(0), now: Millis(now), origin: Origin::Client }
}

/// Everything below `upper`, by slices of at most `bytes_max`.
pub fn read_bytes(log: &Log, from: Offset, upper: Offset, bytes_max: usize) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    let mut from = from;
    while from < upper {
        let limits = ReadLimits { bytes_max, upper, minimum_one: true };
        let slice = log.read(from, limits).map_err(|e| e.to_string())?;
        let bytes = slice.read().map_err(|e| e.to_string())?;
        let Some(next) = Batches::new(bytes.clone()).last() else { break };
        from = next.map_err(|e| e.to_string())?.last_offset().plus(1);
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

pub fn read_batches(log: &Log) -> Vec<Batch> {
    let bytes = read_bytes(log, log.log_start(), log.log_end(), 1 << 20).expect("the log reads");
    Batches::new(bytes).map(|batch| batch.expect("a batch")).collect()
}

/// `offset:key=value` of every record, for comparing with text.
pub fn dump(log: &Log) -> String {
    let mut text = Vec::new();
    for batch in read_batches(log) {
        batch.verify_crc().expect("the checksum is right");
        for record in batch.records(1 << 20) {
            let record = record.expect("a record");
            let show = |bytes: &Option<Bytes>| match bytes {
                Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                None => "-".to_owned(),
            };
            let key = if record.key.is_some() { format!("{}=", show(&record.key)) } else { String::new() };
            text.push(format!("{}:{key}{}", record.offset, show(&record.value)));
        }
    }
    text.join(" ")
}
