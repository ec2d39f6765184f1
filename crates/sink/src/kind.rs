//! The types that fields of values can have, as they are declared, and as they are in a table.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

/// A type that a field of a JSON value can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number of single precision.
    Float32,
    /// A number of double precision.
    Float64,
    /// True or false.
    Bool,
    /// A moment: text in the form of RFC 3339, or a whole number of milliseconds since 1970.
    Timestamp,
    /// A day: text such as `2024-05-01`.
    Date,
    /// Bytes: text in base64.
    Bytes,
    /// A number of so many decimal digits, so many of them behind the point: a number, or text that is one.
    Decimal {
        /// All digits, 1 to 38.
        precision: u8,
        /// Those behind the point, at most as many.
        scale: u8,
    },
    /// An object with these fields; others are left out.
    Struct(Vec<JsonField>),
    /// A list of such values.
    List(Box<JsonField>),
    /// An object whose names are keys, and all of whose values are such.
    Map(Box<JsonField>),
}

/// A field of a JSON value that becomes a column of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonField {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether a value without it is refused, instead of having null there.
    pub is_required: bool,
}

impl JsonField {
    /// What lists and maps call their values, going by Parquet's own specification.
    pub const ELEMENT: &str = "element";
    /// See [`JsonField::ELEMENT`].
    pub const VALUE: &str = "value";

    pub(crate) fn arrow(&self) -> Field {
        Field::new(&self.name, self.kind.data_type(), !self.is_required)
    }
}

impl Kind {
    /// The most digits of a decimal number.
    pub const PRECISION_MAX: u8 = 38;

    /// The names there are; three of them need to be told of what they consist.
    pub const NAMES: [&str; 13] = [
        "string",
        "int32",
        "int64",
        "float32",
        "float64",
        "bool",
        "timestamp",
        "date",
        "bytes",
        "decimal(PRECISION,SCALE)",
        "struct",
        "list",
        "map",
    ];

    /// The kind of that name, if it needs no more than that.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "string" => Some(Self::String),
            "int32" => Some(Self::Int32),
            "int64" => Some(Self::Int64),
            "float32" => Some(Self::Float32),
            "float64" => Some(Self::Float64),
            "bool" => Some(Self::Bool),
            "timestamp" => Some(Self::Timestamp),
            "date" => Some(Self::Date),
            "bytes" => Some(Self::Bytes),
            _ => {
                let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
                let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
                ((1..=Self::PRECISION_MAX).contains(&precision) && scale <= precision)
                    .then_some(Self::Decimal { precision, scale })
            }
        }
    }

    /// How it is declared.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
            Self::Bytes => "bytes",
            Self::Decimal { .. } => "decimal",
            Self::Struct(_) => "struct",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// What a value has to be.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::String => "a string",
            Self::Int32 => "a whole number of 32 bits",
            Self::Int64 => "a whole number of 64 bits",
            Self::Float32 | Self::Float64 => "a number",
            Self::Bool => "true or false",
            Self::Timestamp => "a time such as \"2024-05-01T12:00:00Z\", or milliseconds since 1970",
            Self::Date => "a date such as \"2024-05-01\"",
            Self::Bytes => "bytes in base64",
            Self::Decimal { precision, scale } => return format!("a decimal({precision},{scale})"),
            Self::Struct(_) | Self::Map(_) => "an object",
            Self::List(_) => "a list",
        }
        .to_owned()
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Bytes => DataType::Binary,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, scale.cast_signed()),
            Self::Struct(fields) => DataType::Struct(fields.iter().map(JsonField::arrow).collect()),
            Self::List(item) => DataType::List(Arc::new(item.arrow())),
            Self::Map(value) => {
                let entries = DataType::Struct(map_fields(value));
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
        }
    }
}

/// The two columns of a map's entries.
pub(crate) fn map_fields(value: &JsonField) -> Fields {
    vec![Field::new("key", DataType::Utf8, false), value.arrow()].into()
}
