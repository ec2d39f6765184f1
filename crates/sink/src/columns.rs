//! Records into columns.
//!
//! A [`Shape`] says which columns a table has and how a value becomes one row of them; [`Columns`] gathers rows. Bytes of a record are
//! copied once, into their column. What cannot be converted leaves no row and says which field it was about: nothing is ever
//! dropped, cut off or rounded in silence.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
    TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use client::ConsumedRecord;

use crate::column::Column;
use crate::encoded::{Encoded, SchemaError};
use crate::json;
use crate::kind::{JsonField, Kind};

/// How values become columns.
#[derive(Debug, Clone)]
pub enum Format {
    /// One column `value` of text.
    Text,
    /// One column `value` of bytes.
    Bytes,
    /// A column for each of these fields of a JSON object. Others are left out.
    Json(Vec<JsonField>),
    /// A column for each field of a schema.
    Encoded(Arc<Encoded>),
}

impl Format {
    /// The columns of values, where they are not one of the value itself.
    fn fields(&self) -> Option<&[JsonField]> {
        match self {
            Self::Text | Self::Bytes => None,
            Self::Json(fields) => Some(fields),
            Self::Encoded(encoded) => Some(encoded.fields()),
        }
    }
}

/// What a record has besides its value, as a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// `kafka_topic`.
    Topic,
    /// `kafka_partition`.
    Partition,
    /// `kafka_offset`.
    Offset,
    /// `kafka_timestamp`.
    Timestamp,
    /// `kafka_key`.
    Key,
    /// `kafka_headers`.
    Headers,
}

/// The column that holds records' offsets.
pub const OFFSET_COLUMN: &str = "kafka_offset";

impl Extra {
    /// The names there are.
    pub const NAMES: [&str; 6] = ["topic", "partition", "offset", "timestamp", "key", "headers"];

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "topic" => Some(Self::Topic),
            "partition" => Some(Self::Partition),
            "offset" => Some(Self::Offset),
            "timestamp" => Some(Self::Timestamp),
            "key" => Some(Self::Key),
            "headers" => Some(Self::Headers),
            _ => None,
        }
    }

    /// The column's name.
    pub fn column(self) -> &'static str {
        match self {
            Self::Topic => "kafka_topic",
            Self::Partition => "kafka_partition",
            Self::Offset => OFFSET_COLUMN,
            Self::Timestamp => "kafka_timestamp",
            Self::Key => "kafka_key",
            Self::Headers => "kafka_headers",
        }
    }

    fn field(self) -> Field {
        let (data_type, is_nullable) = match self {
            Self::Topic => (DataType::Utf8, false),
            Self::Partition => (DataType::Int32, false),
            Self::Offset => (DataType::Int64, false),
            Self::Timestamp => (DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
            Self::Key => (DataType::Binary, true),
            Self::Headers => {
                let item = Field::new("item", DataType::Struct(header_fields()), true);
                (DataType::List(Arc::new(item)), false)
            }
        };
        Field::new(self.column(), data_type, is_nullable)
    }
}

fn header_fields() -> Fields {
    vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into()
}

/// What a table's rows look like.
#[derive(Debug, Clone)]
pub struct Shape {
    format: Format,
    extras: Vec<Extra>,
    schema: SchemaRef,
}

/// A record that is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconvertible {
    /// The field, if it is about one.
    pub field: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

impl Shape {
    /// The columns of values, and behind them what else is wished for. Two of one name are refused by that name.
    pub fn new(format: Format, extras: Vec<Extra>) -> Result<Self, String> {
        let values = match &format {
            Format::Text => vec![Field::new("value", DataType::Utf8, true)],
            Format::Bytes => vec![Field::new("value", DataType::Binary, true)],
            Format::Json(_) | Format::Encoded(_) => {
                format.fields().into_iter().flatten().map(JsonField::arrow).collect()
            }
        };
        let fields: Vec<Field> = values.into_iter().chain(extras.iter().map(|extra| extra.field())).collect();
        for (at, field) in fields.iter().enumerate() {
            // Hive and DuckDB do not tell capitals apart.
            if fields[..at].iter().any(|other| other.name().eq_ignore_ascii_case(field.name())) {
                return Err(field.name().clone());
            }
        }
        Ok(Self { format, extras, schema: Arc::new(Schema::new(fields)) })
    }

    /// The same with its columns, where a registry is still to be asked for them.
    pub(crate) async fn settled(self: &Arc<Self>) -> Result<Arc<Self>, SchemaError> {
        let Format::Encoded(encoded) = &self.format else { return Ok(Arc::clone(self)) };
        let Some(settled) = encoded.settled().await? else { return Ok(Arc::clone(self)) };
        let settled = Self::new(Format::Encoded(Arc::new(settled)), self.extras.clone());
        Ok(Arc::new(settled.map_err(|name| encoded.unusable(format!("there are two columns {name:?}")))?))
    }

    /// What has to be made ready before records are appended, if anything.
    pub(crate) fn encoded(&self) -> Option<&Arc<Encoded>> {
        match &self.format {
            Format::Encoded(encoded) => Some(encoded),
            _ => None,
        }
    }

    /// Whether values are kept as they are.
    pub(crate) fn is_bytes(&self) -> bool {
        matches!(self.format, Format::Bytes)
    }

    /// The fields of values, in the order of their columns, which come first. Those of a registry are not known before it is asked.
    pub(crate) fn fields(&self) -> Option<&[JsonField]> {
        self.format.fields()
    }

    /// Whether no registry is still to be asked for the columns.
    pub(crate) fn is_known(&self) -> bool {
        self.encoded().is_none_or(|encoded| encoded.is_settled())
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

enum ExtraColumn {
    Topic(StringBuilder),
    Partition(Int32Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMillisecondBuilder),
    Key(BinaryBuilder),
    Headers(ListBuilder<StructBuilder>),
}

impl ExtraColumn {
    fn new(extra: Extra) -> Self {
        match extra {
            Extra::Topic => Self::Topic(StringBuilder::new()),
            Extra::Partition => Self::Partition(Int32Builder::new()),
            Extra::Offset => Self::Offset(Int64Builder::new()),
            Extra::Timestamp => Self::Timestamp(TimestampMillisecondBuilder::new().with_timezone("UTC")),
            Extra::Key => Self::Key(BinaryBuilder::new()),
            Extra::Headers => {
                let builders: Vec<Box<dyn ArrayBuilder>> =
                    vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())];
                Self::Headers(ListBuilder::new(StructBuilder::new(header_fields(), builders)))
            }
        }
    }

    fn append(&mut self, record: &ConsumedRecord) {
        match self {
            Self::Topic(column) => column.append_value(&record.topic),
            Self::Partition(column) => column.append_value(record.partition.0),
            Self::Offset(column) => column.append_value(record.offset.0),
            Self::Timestamp(column) => {
                column.append_option(Some(record.timestamp.0).filter(|&time| time >= 0));
            }
            Self::Key(column) => column.append_option(record.key.as_deref()),
            Self::Headers(column) => {
                let structs = column.values();
                for header in &record.headers {
                    let keys = structs.field_builder::<StringBuilder>(0).expect("keys are text");
                    keys.append_value(&header.key);
                    let values = structs.field_builder::<BinaryBuilder>(1).expect("values are bytes");
                    values.append_option(header.value.as_deref());
                    structs.append(true);
                }
                column.append(true);
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Topic(column) => Arc::new(column.finish()),
            Self::Partition(column) => Arc::new(column.finish()),
            Self::Offset(column) => Arc::new(column.finish()),
            Self::Timestamp(column) => Arc::new(column.finish()),
            Self::Key(column) => Arc::new(column.finish()),
            Self::Headers(column) => Arc::new(column.finish()),
        }
    }
}

/// Rows that gather.
pub struct Columns {
    shape: Arc<Shape>,
    values: Vec<Column>,
    extras: Vec<ExtraColumn>,
    rows: usize,
    bytes: usize,
    /// What a row takes at least, where values are small or not there.
    row_bytes_min: usize,
    /// What the rows before took, which these have room for.
    room: usize,
    /// In which row each field was last seen, where fields come in any order.
    seen: Vec<u64>,
    row_number: u64,
}

impl Columns {
    /// None yet.
    pub fn new(shape: Arc<Shape>) -> Self {
        let values: Vec<Column> = match &shape.format {
            Format::Text => vec![Column::new(&Kind::String)],
            Format::Bytes => vec![Column::new(&Kind::Bytes)],
            Format::Json(_) | Format::Encoded(_) => {
                shape.format.fields().into_iter().flatten().map(|field| Column::new(&field.kind)).collect()
            }
        };
        let extras = shape.extras.iter().map(|&extra| ExtraColumn::new(extra)).collect();
        let seen = vec![0; values.len()];
        let row_bytes_min = values.iter().map(Column::width).sum::<usize>() * size_of::<u64>();
        Self { row_bytes_min, shape, values, extras, rows: 0, bytes: 0, room: 0, seen, row_number: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What their records took.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is in memory, about.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.max(self.room)
    }

    /// Appends a record as a row. After an error nothing may be appended before [`Columns::finish`], which gives the rows before it.
    pub fn append(&mut self, record: &ConsumedRecord) -> Result<(), Unconvertible> {
        self.append_if(record, |_| Ok(()))
    }

    /// The same, unless whoever looks at the columns of its value, with its own as the last, does not take it.
    pub(crate) fn append_if<E: From<Unconvertible>>(
        &mut self,
        record: &ConsumedRecord,
        accept: impl FnOnce(&[Column]) -> Result<(), E>,
    ) -> Result<(), E> {
        let extra = self.append_value(record)?;
        accept(&self.values)?;
        for extra in &mut self.extras {
            extra.append(record);
        }
        self.rows += 1;
        self.bytes += size(record).max(self.row_bytes_min) + extra;
        Ok(())
    }

    /// Gives what it takes beyond its own bytes.
    fn append_value(&mut self, record: &ConsumedRecord) -> Result<usize, Unconvertible> {
        let unconvertible = |problem: String| Unconvertible { field: None, problem };
        let mut extra = 0;
        match (&self.shape.format, &mut self.values[..], &record.value) {
            (Format::Text, [Column::String(column)], Some(value)) => {
                let text = std::str::from_utf8(value);
                let text = text.map_err(|error| unconvertible(format!("the value is not UTF-8: {error}")))?;
                column.append_value(text);
            }
            (Format::Bytes, [Column::Binary(column)], Some(value)) => column.append_value(value),
            (Format::Text | Format::Bytes, [column], None) => column.null(),
            (Format::Encoded(encoded), values, Some(value)) => extra = encoded.append(value, values)?,
            (format @ (Format::Json(_) | Format::Encoded(_)), values, value) => {
                self.row_number += 1;
                let fields = format.fields().unwrap_or_default();
                let row = json::Row { fields, values, seen: &mut self.seen, number: self.row_number };
                match value {
                    Some(value) => row.parse(value)?,
                    None => row.nothing()?,
                }
            }
            _ => unreachable!("raw values have one column of their type"),
        }
        Ok(extra)
    }

    /// The rows, which are none then.
    pub fn finish(&mut self) -> RecordBatch {
        // A record that was no row may have left some of its fields.
        let values = self.values.iter_mut().map(|column| column.finish(self.rows));
        let arrays: Vec<ArrayRef> = values.chain(self.extras.iter_mut().map(ExtraColumn::finish)).collect();
        if self.rows > 0 {
            self.room = self.bytes;
        }
        (self.rows, self.bytes) = (0, 0);
        let batch = RecordBatch::try_new(Arc::clone(&self.shape.schema), arrays);
        batch.expect("columns are of their types and of one length, and what is required is there")
    }
}

/// What a record counts for.
pub(crate) fn size(record: &ConsumedRecord) -> usize {
    let of = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers = record.headers.iter().map(|header| header.key.len() + of(&header.value));
    of(&record.key) + of(&record.value) + headers.sum::<usize>()
}
