//! A JSON object straight into columns, without a tree between.
//!
//! Strict: a field is of its kind or the record is refused, never converted at a loss. A field that comes twice is refused, one that is
//! not declared is left out, one that does not come is null unless it is required.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use crate::columns::{Column, JsonField, Kind, Unconvertible};

/// One row to be filled.
pub(crate) struct Row<'a> {
    pub(crate) fields: &'a [JsonField],
    pub(crate) values: &'a mut [Column],
    /// In which row each field was last seen.
    pub(crate) seen: &'a mut [u64],
    /// The number of this one.
    pub(crate) number: u64,
}

impl Row<'_> {
    /// Fills it from an object.
    pub(crate) fn parse(mut self, value: &[u8]) -> Result<(), Unconvertible> {
        let mut at = None;
        let mut parser = serde_json::Deserializer::from_slice(value);
        let parsed = parser.deserialize_map(Object { row: &mut self, at: &mut at });
        parsed.and_then(|()| parser.end()).map_err(|error| Unconvertible {
            field: at.map(|at| self.fields[at].name.clone()),
            problem: error.to_string(),
        })
    }

    /// Fills it with nothing, as of a tombstone.
    pub(crate) fn nothing(mut self) -> Result<(), Unconvertible> {
        self.rest().map_err(|at| Unconvertible {
            field: Some(self.fields[at].name.clone()),
            problem: "the record has no value, and the field is required".to_owned(),
        })
    }

    /// Nulls where nothing came; the field that had to come, if one did not.
    fn rest(&mut self) -> Result<(), usize> {
        for (at, column) in self.values.iter_mut().enumerate() {
            if self.seen[at] != self.number {
                if self.fields[at].is_required {
                    return Err(at);
                }
                column.null();
            }
        }
        Ok(())
    }
}

struct Object<'r, 'a> {
    row: &'r mut Row<'a>,
    /// The field that is being read.
    at: &'r mut Option<usize>,
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Self { row, at } = self;
        // Most producers write the fields in one order.
        let mut guess = 0;
        while let Some(found) = map.next_key_seed(Name { fields: row.fields, guess })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            guess = index + 1;
            *at = Some(index);
            if row.seen[index] == row.number {
                return Err(M::Error::custom("the field comes twice"));
            }
            row.seen[index] = row.number;
            let field = &row.fields[index];
            map.next_value_seed(Value { field, column: &mut row.values[index] })?;
            *at = None;
        }
        row.rest().map_err(|missing| {
            *at = Some(missing);
            M::Error::custom("the field is required, and missing")
        })
    }
}

/// A field's name, as its place among those that are declared.
struct Name<'a> {
    fields: &'a [JsonField],
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        match self.fields.get(self.guess) {
            Some(field) if field.name == name => Ok(Some(self.guess)),
            _ => Ok(self.fields.iter().position(|field| field.name == name)),
        }
    }
}

/// A field's value.
struct Value<'a> {
    field: &'a JsonField,
    column: &'a mut Column,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field.kind.expected())?;
        if !self.field.is_required { f.write_str(", or null") } else { Ok(()) }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.field.is_required {
            return Err(E::custom("the field is required, and null"));
        }
        self.column.null();
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.column {
            Column::Bool(column) => column.append_value(value),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match (self.field.kind, self.column) {
            (Kind::Int64, Column::Int64(column)) => column.append_value(value),
            (Kind::Float64, Column::Float64(column)) => column.append_value(exact(value.into())?),
            (Kind::Timestamp, Column::Timestamp(column)) => match value.checked_mul(1000) {
                Some(micros) => column.append_value(micros),
                None => return Err(E::custom(format!("{value} is no time in milliseconds since 1970"))),
            },
            (kind, _) => return Err(mismatch(kind, &value.to_string())),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match (i64::try_from(value), &mut *self.column) {
            (Ok(value), _) => self.visit_i64(value),
            (Err(_), Column::Float64(column)) => {
                column.append_value(exact(value.into())?);
                Ok(())
            }
            (Err(_), _) => Err(mismatch(self.field.kind, &value.to_string())),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.column {
            Column::Float64(column) => column.append_value(value),
            _ => return Err(mismatch(self.field.kind, &value.to_string())),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.column {
            Column::String(column) => column.append_value(value),
            Column::Timestamp(column) => match value.parse::<jiff::Timestamp>() {
                Ok(time) if time.subsec_nanosecond() % 1_000 != 0 => {
                    return Err(E::custom(format!(
                        "{value:?} would be rounded: a table's times have microseconds"
                    )));
                }
                Ok(time) => column.append_value(time.as_microsecond()),
                Err(_) => return Err(mismatch(self.field.kind, &format!("{value:?}"))),
            },
            _ => return Err(mismatch(self.field.kind, &format!("{value:?}"))),
        }
        Ok(())
    }
}

/// A whole number as a float.
fn exact<E: Error>(value: i128) -> Result<f64, E> {
    let float = value as f64;
    match float as i128 == value {
        true => Ok(float),
        false => Err(E::custom(format!("{value} would be rounded as float64; int64 and string keep it"))),
    }
}

fn mismatch<E: Error>(kind: Kind, value: &str) -> E {
    const SHOWN_MAX: usize = 60;
    let cut = value.char_indices().nth(SHOWN_MAX);
    let shown = cut.map_or_else(|| value.to_owned(), |(at, _)| format!("{}…", &value[..at]));
    E::custom(format!("{shown} is not {}", kind.expected()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
    use client::{ConsumedRecord, TimestampType};
    use expect_test::expect;
    use wire::compression::Compression;
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

    use crate::columns::{Columns, Format, JsonField, Kind, Shape};

    fn record(value: Option<&str>) -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: PartitionId(0),
            offset: Offset(0),
            leader_epoch: LeaderEpoch(0),
            timestamp: Millis(0),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: value.map(|value| value.as_bytes().to_vec().into()),
            headers: Vec::new(),
            compression: Compression::None,
            is_transactional: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
        }
    }

    fn columns() -> Columns {
        let field = |name: &str, kind, is_required| JsonField { name: name.to_owned(), kind, is_required };
        let fields = vec![
            field("id", Kind::Int64, true),
            field("name", Kind::String, false),
            field("price", Kind::Float64, false),
            field("paid", Kind::Bool, false),
            field("at", Kind::Timestamp, false),
        ];
        Columns::new(Arc::new(Shape::new(Format::Json(fields), Vec::new()).unwrap()))
    }

    #[test]
    fn fields_come_in_any_order_and_what_is_not_declared_is_left_out() {
        let mut columns = columns();
        for value in [
            r#"{"id":1,"name":"a \"b\" \u00e4","price":1.5,"paid":true,"at":"2024-05-01T12:00:00.5+02:00"}"#,
            r#"{"x":{"id":[7]},"at":1714557600000,"price":3,"id":-2}"#,
            r#" { "id" : 3 , "name" : null } "#,
        ] {
            columns.append(&record(Some(value))).unwrap();
        }
        let batch = columns.finish();
        let ids = batch.column(0).as_primitive::<Int64Type>();
        assert_eq!(ids.values(), &[1, -2, 3]);
        let names = batch.column(1).as_string::<i32>();
        assert_eq!(names.iter().collect::<Vec<_>>(), [Some("a \"b\" ä"), None, None]);
        let prices = batch.column(2).as_primitive::<Float64Type>();
        assert_eq!(prices.iter().collect::<Vec<_>>(), [Some(1.5), Some(3.0), None]);
        assert_eq!(batch.column(3).as_boolean().iter().collect::<Vec<_>>(), [Some(true), None, None]);
        let times = batch.column(4).as_primitive::<TimestampMicrosecondType>();
        let times: Vec<_> = times.iter().collect();
        assert_eq!(times, [Some(1_714_557_600_500_000), Some(1_714_557_600_000_000), None]);
    }

    #[test]
    fn what_is_no_row_says_why_and_leaves_none() {
        let told = |value: Option<&str>| {
            let mut columns = columns();
            columns.append(&record(Some(r#"{"id":1,"paid":false}"#))).unwrap();
            let problem = columns.append(&record(value)).unwrap_err();
            assert_eq!(columns.finish().num_rows(), 1);
            format!("{}: {}", problem.field.as_deref().unwrap_or("-"), problem.problem)
        };
        let values = [
            r#"{"name":"a"}"#,
            r#"{"id":null}"#,
            r#"{"name":"a","id":1.5}"#,
            r#"{"id":9223372036854775808}"#,
            r#"{"id":"1"}"#,
            r#"{"id":1,"name":2}"#,
            r#"{"id":1,"name":{}}"#,
            r#"{"id":1,"at":"yesterday"}"#,
            r#"{"id":1,"id":2}"#,
            r#"{"id":1,"price":1e999}"#,
            r#"{"id":1,"price":9007199254740993}"#,
            r#"{"id":1,"price":18446744073709551615}"#,
            r#"{"id":1,"at":"2024-05-01T12:00:00.0000001Z"}"#,
            r#"{"id":1"#,
            r#"{"id":1} {"id":2}"#,
            r#"[1]"#,
            "",
        ];
        let all: String = values.iter().map(|value| format!("{value}\n  {}\n", told(Some(value)))).collect();
        expect![[r#"
            {"name":"a"}
              id: the field is required, and missing at line 1 column 12
            {"id":null}
              id: the field is required, and null at line 1 column 10
            {"name":"a","id":1.5}
              id: 1.5 is not a whole number of 64 bits at line 1 column 20
            {"id":9223372036854775808}
              id: 9223372036854775808 is not a whole number of 64 bits at line 1 column 25
            {"id":"1"}
              id: "1" is not a whole number of 64 bits at line 1 column 9
            {"id":1,"name":2}
              name: 2 is not a string at line 1 column 16
            {"id":1,"name":{}}
              name: invalid type: map, expected a string, or null at line 1 column 17
            {"id":1,"at":"yesterday"}
              at: "yesterday" is not a time such as "2024-05-01T12:00:00Z", or milliseconds since 1970 at line 1 column 24
            {"id":1,"id":2}
              id: the field comes twice at line 1 column 12
            {"id":1,"price":1e999}
              price: number out of range at line 1 column 21
            {"id":1,"price":9007199254740993}
              price: 9007199254740993 would be rounded as float64; int64 and string keep it at line 1 column 32
            {"id":1,"price":18446744073709551615}
              price: 18446744073709551615 would be rounded as float64; int64 and string keep it at line 1 column 36
            {"id":1,"at":"2024-05-01T12:00:00.0000001Z"}
              at: "2024-05-01T12:00:00.0000001Z" would be rounded: a table's times have microseconds at line 1 column 43
            {"id":1
              -: EOF while parsing an object at line 1 column 7
            {"id":1} {"id":2}
              -: trailing characters at line 1 column 10
            [1]
              -: invalid type: sequence, expected a JSON object at line 1 column 0

              -: EOF while parsing a value at line 1 column 0
        "#]].assert_eq(&all);
        assert_eq!(told(None), "id: the record has no value, and the field is required");
    }
}
