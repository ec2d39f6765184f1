//! Columns of values that grow, nested as their types are.
//!
//! A row that fails half-way leaves its parts in some columns. They are at the end, and [`Column::finish`] takes as many values as
//! there are whole rows: so a failed row has to be the last before it.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, GenericByteBuilder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::types::ByteArrayType;
use arrow_array::{Array, ArrayRef, ListArray, MapArray, StructArray};
use arrow_buffer::{NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{Field, Fields};

use crate::kind::{JsonField, Kind, map_fields};

/// A column of values.
pub(crate) enum Column {
    String(StringBuilder),
    Binary(BinaryBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Decimal(Decimal128Builder),
    Struct(StructColumn),
    List(ListColumn),
    Map(MapColumn),
}

/// A value that is no more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Null,
    Text(&'a str),
    Whole(i64),
    Bool(bool),
    /// Days since 1970.
    Days(i32),
    /// Microseconds since 1970.
    Micros(i64),
}

/// Objects.
pub(crate) struct StructColumn {
    fields: Fields,
    pub(crate) columns: Vec<Column>,
    validity: NullBufferBuilder,
    /// In which object each field was last seen, and the number of the last one.
    pub(crate) seen: Vec<u64>,
    pub(crate) number: u64,
}

/// Lists.
pub(crate) struct ListColumn {
    field: Arc<Field>,
    pub(crate) items: Box<Column>,
    ends: Ends,
}

/// Maps.
pub(crate) struct MapColumn {
    fields: Fields,
    pub(crate) keys: StringBuilder,
    pub(crate) values: Box<Column>,
    ends: Ends,
}

/// The texts or bytes of so many rows. Those of the next ones take about as much, and do not move as they grow.
fn finish_bytes<T: ByteArrayType<Offset = i32>>(column: &mut GenericByteBuilder<T>, rows: usize) -> ArrayRef {
    // A row that failed may have left more than all of them.
    let bytes =
        column.offsets_slice().get(rows).map_or(0, |&end| usize::try_from(end).expect("it counts up"));
    let next = GenericByteBuilder::with_capacity(rows, bytes);
    Arc::new(std::mem::replace(column, next).finish().slice(0, rows))
}

/// Where each list ends, and which of them are there at all.
struct Ends {
    offsets: Vec<i32>,
    validity: NullBufferBuilder,
}

impl Ends {
    fn new() -> Self {
        Self { offsets: vec![0], validity: NullBufferBuilder::new(0) }
    }

    fn push(&mut self, count: usize) {
        let last = self.offsets.last().copied().unwrap_or(0);
        let count = i32::try_from(count).expect("a value takes a byte, and a batch about a megabyte");
        self.offsets.push(last + count);
        self.validity.append_non_null();
    }

    fn null(&mut self) {
        self.offsets.push(self.offsets.last().copied().unwrap_or(0));
        self.validity.append_null();
    }

    /// Those of whole rows, and how many values they have together.
    fn finish(&mut self, rows: usize) -> (OffsetBuffer<i32>, Option<NullBuffer>, usize) {
        let Self { mut offsets, validity } = std::mem::replace(self, Self::new());
        offsets.truncate(rows + 1);
        let values = offsets.last().map_or(0, |&end| usize::try_from(end).expect("it counts up"));
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), whole(validity, rows), values)
    }
}

fn whole(mut validity: NullBufferBuilder, rows: usize) -> Option<NullBuffer> {
    validity.finish().map(|nulls| nulls.slice(0, rows))
}

impl StructColumn {
    /// The object is whole.
    pub(crate) fn push(&mut self) {
        self.validity.append_non_null();
    }
}

impl ListColumn {
    /// A list of so many values, which are there, is whole.
    pub(crate) fn push(&mut self, count: usize) {
        self.ends.push(count);
    }
}

impl MapColumn {
    /// A map of so many entries, which are there, is whole.
    pub(crate) fn push(&mut self, count: usize) {
        self.ends.push(count);
    }
}

impl Column {
    pub(crate) fn new(kind: &Kind) -> Self {
        match kind {
            Kind::String => Self::String(StringBuilder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Float32 => Self::Float32(Float32Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Bytes => Self::Binary(BinaryBuilder::new()),
            Kind::Decimal { precision, scale } => {
                let builder =
                    Decimal128Builder::new().with_precision_and_scale(*precision, scale.cast_signed());
                Self::Decimal(builder.expect("1 to 38 digits, and no more behind the point"))
            }
            Kind::Struct(fields) => Self::Struct(StructColumn {
                fields: fields.iter().map(JsonField::arrow).collect(),
                columns: fields.iter().map(|field| Self::new(&field.kind)).collect(),
                validity: NullBufferBuilder::new(0),
                seen: vec![0; fields.len()],
                number: 0,
            }),
            Kind::List(item) => Self::List(ListColumn {
                field: Arc::new(item.arrow()),
                items: Box::new(Self::new(&item.kind)),
                ends: Ends::new(),
            }),
            Kind::Map(value) => Self::Map(MapColumn {
                fields: map_fields(value),
                keys: StringBuilder::new(),
                values: Box::new(Self::new(&value.kind)),
                ends: Ends::new(),
            }),
        }
    }

    /// The columns that a null has a value in, those within it included.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Struct(column) => 1 + column.columns.iter().map(Self::width).sum::<usize>(),
            _ => 1,
        }
    }

    pub(crate) fn null(&mut self) {
        match self {
            Self::String(column) => column.append_null(),
            Self::Binary(column) => column.append_null(),
            Self::Int32(column) => column.append_null(),
            Self::Int64(column) => column.append_null(),
            Self::Float32(column) => column.append_null(),
            Self::Float64(column) => column.append_null(),
            Self::Bool(column) => column.append_null(),
            Self::Timestamp(column) => column.append_null(),
            Self::Date(column) => column.append_null(),
            Self::Decimal(column) => column.append_null(),
            Self::Struct(column) => {
                column.columns.iter_mut().for_each(Self::null);
                column.validity.append_null();
            }
            Self::List(column) => column.ends.null(),
            Self::Map(column) => column.ends.null(),
        }
    }

    /// The last value, if it is one that a directory can be called after. Panics without any.
    pub(crate) fn last(&self) -> Option<Scalar<'_>> {
        let is_null = |validity: Option<&[u8]>, len: usize| {
            validity.is_some_and(|validity| !arrow_buffer::bit_util::get_bit(validity, len - 1))
        };
        let (validity, len, value) = match self {
            Self::String(column) => {
                let (offsets, bytes) = (column.offsets_slice(), column.values_slice());
                let at = |back: usize| usize::try_from(offsets[offsets.len() - back]).expect("it counts up");
                let text = std::str::from_utf8(&bytes[at(2)..at(1)]).expect("it is a column of text");
                (column.validity_slice(), column.len(), Scalar::Text(text))
            }
            Self::Int32(column) => {
                let values = column.values_slice();
                (column.validity_slice(), values.len(), Scalar::Whole(values[values.len() - 1].into()))
            }
            Self::Int64(column) => {
                let values = column.values_slice();
                (column.validity_slice(), values.len(), Scalar::Whole(values[values.len() - 1]))
            }
            Self::Bool(column) => {
                let len = column.len();
                let is = arrow_buffer::bit_util::get_bit(column.values_slice(), len - 1);
                (column.validity_slice(), len, Scalar::Bool(is))
            }
            Self::Date(column) => {
                let values = column.values_slice();
                (column.validity_slice(), values.len(), Scalar::Days(values[values.len() - 1]))
            }
            Self::Timestamp(column) => {
                let values = column.values_slice();
                (column.validity_slice(), values.len(), Scalar::Micros(values[values.len() - 1]))
            }
            _ => return None,
        };
        Some(if is_null(validity, len) { Scalar::Null } else { value })
    }

    /// The values of so many whole rows; there are none then.
    pub(crate) fn finish(&mut self, rows: usize) -> ArrayRef {
        const WHOLE: &str = "whole rows have a value of its type in each column, and what is required";
        match self {
            Self::String(column) => finish_bytes(column, rows),
            Self::Binary(column) => finish_bytes(column, rows),
            Self::Int32(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Int64(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Float32(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Float64(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Bool(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Timestamp(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Date(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Decimal(column) => Arc::new(column.finish().slice(0, rows)),
            Self::Struct(column) => {
                let columns = column.columns.iter_mut().map(|column| column.finish(rows)).collect();
                let validity = std::mem::replace(&mut column.validity, NullBufferBuilder::new(0));
                let nulls = whole(validity, rows);
                Arc::new(StructArray::try_new(column.fields.clone(), columns, nulls).expect(WHOLE))
            }
            Self::List(column) => {
                let (offsets, nulls, values) = column.ends.finish(rows);
                let items = column.items.finish(values);
                let field = Arc::clone(&column.field);
                Arc::new(ListArray::try_new(field, offsets, items, nulls).expect(WHOLE))
            }
            Self::Map(column) => {
                let (offsets, nulls, values) = column.ends.finish(rows);
                let keys: ArrayRef = Arc::new(column.keys.finish().slice(0, values));
                let entries = vec![keys, column.values.finish(values)];
                let entries = StructArray::try_new(column.fields.clone(), entries, None).expect(WHOLE);
                let field = Arc::new(Field::new("key_value", entries.data_type().clone(), false));
                Arc::new(MapArray::try_new(field, offsets, entries, nulls, false).expect(WHOLE))
            }
        }
    }
}
