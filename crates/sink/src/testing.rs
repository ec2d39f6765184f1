//! For tests of what becomes rows: records, and rows as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;
use client::{ConsumedRecord, TimestampType};
use wire::compression::Compression;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

use crate::bucket::{Depth, Objects, Put};
use crate::columns::{Columns, Format, Shape, Unconvertible};
use crate::encoded::Encoded;

#[path = "../tests/support/registry.rs"]
mod registry;

pub(crate) use registry::TestRegistry;

/// Objects in memory, and what may be wrong with their store.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// It overlooks the condition of a put.
    pub(crate) is_replacing: bool,
    /// It lists nothing.
    pub(crate) is_hiding: bool,
    /// It does not allow to list.
    pub(crate) is_unlisted: bool,
}

impl Objects for Kept {
    fn put(&self, key: &str, content: Bytes, put: Put) -> io::Result<()> {
        let mut objects = self.objects.lock().unwrap();
        if put == Put::New && !self.is_replacing && objects.contains_key(key) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        objects.insert(key.to_owned(), content.into());
        Ok(())
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        self.objects.lock().unwrap().get(key).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn get_end(&self, key: &str, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let all = self.get(key)?;
        Ok((all.len() as u64, all[all.len() - all.len().min(bytes_max)..].to_vec()))
    }

    /// No key here is two deep below a prefix.
    fn list(&self, prefix: &str, _depth: Depth) -> io::Result<Vec<String>> {
        if self.is_unlisted {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let objects = self.objects.lock().unwrap();
        Ok(objects.keys().filter(|key| !self.is_hiding && key.starts_with(prefix)).cloned().collect())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
}

pub(crate) fn record(value: Option<&[u8]>) -> ConsumedRecord {
    ConsumedRecord {
        topic: "orders".into(),
        partition: PartitionId(0),
        offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        timestamp: Millis(0),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        value: value.map(|value| value.to_vec().into()),
        headers: Vec::new(),
        compression: Compression::None,
        is_transactional: false,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
    }
}

pub(crate) fn columns(encoded: Arc<Encoded>) -> Columns {
    Columns::new(Arc::new(Shape::new(Format::Encoded(encoded), Vec::new()).unwrap()))
}

/// The one row that a value becomes, through a Parquet file; or why it is none.
pub(crate) fn row(encoded: &Arc<Encoded>, value: Option<&[u8]>) -> String {
    let mut columns = columns(Arc::clone(encoded));
    let appended = columns.append(&record(value));
    let batch = columns.finish();
    match appended {
        Ok(()) => rows(&written(&batch)),
        Err(Unconvertible { field, problem }) => {
            assert_eq!(batch.num_rows(), 0);
            format!("{}: {problem}", field.as_deref().unwrap_or("-"))
        }
    }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|digit| *digit != ' ').map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn written(batch: &RecordBatch) -> RecordBatch {
    let mut file = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    let file = bytes::Bytes::from(file);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let batches: Vec<_> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(&batches[..], std::slice::from_ref(batch));
    batches.into_iter().next().unwrap()
}

/// A line for each row.
pub(crate) fn rows(batch: &RecordBatch) -> String {
    let rows = (0..batch.num_rows()).map(|row| {
        let mut out = String::new();
        for (at, field) in batch.schema().fields().iter().enumerate() {
            let _ = write!(out, "{}{}=", if at == 0 { "" } else { " " }, field.name());
            value(batch.column(at), row, &mut out);
        }
        out
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn value(array: &dyn Array, row: usize, out: &mut String) {
    if array.is_null(row) {
        return out.push('-');
    }
    let _ = match array.data_type() {
        DataType::Utf8 => write!(out, "{:?}", array.as_string::<i32>().value(row)),
        DataType::Binary => {
            array.as_binary::<i32>().value(row).iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
        DataType::Boolean => write!(out, "{}", array.as_boolean().value(row)),
        DataType::Int32 => write!(out, "{}", array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(out, "{}", array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => write!(out, "{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => write!(out, "{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            write!(out, "{}", array.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Date32 => {
            write!(out, "{}", array.as_primitive::<Date32Type>().value_as_date(row).unwrap())
        }
        DataType::Timestamp(..) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            write!(out, "{}", jiff::Timestamp::from_microsecond(micros).unwrap())
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            out.push('{');
            for (at, field) in fields.iter().enumerate() {
                let _ = write!(out, "{}{}=", if at == 0 { "" } else { " " }, field.name());
                value(array.column(at), row, out);
            }
            write!(out, "}}")
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            out.push('[');
            for at in 0..items.len() {
                out.push_str(if at == 0 { "" } else { " " });
                value(&items, at, out);
            }
            write!(out, "]")
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            out.push('{');
            for at in 0..entries.len() {
                out.push_str(if at == 0 { "" } else { " " });
                value(entries.column(0), at, out);
                out.push(':');
                value(entries.column(1), at, out);
            }
            write!(out, "}}")
        }
        other => unreachable!("no value is of {other}"),
    };
}
