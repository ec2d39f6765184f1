//! In which directory a row belongs, in a table that is laid out by fields of the value.
//!
//! It goes by what the converter has made of the value, so that a directory is called after what the column would hold. Fields that
//! directories are called after are no columns of the files: readers take them from the directories' names.

use std::fmt::Write as _;

use client::ConsumedRecord;
use wire::Millis;

use crate::column::{Column, Scalar};
use crate::columns::{Shape, Unconvertible};
use crate::kind::Kind;
use crate::layout::{
    FIELDS_BYTES_MAX, Layout, Misplaced, MisplacedAt, NAME_BYTES_MAX, UNKNOWN, escape, has_year, known,
    of_field, prefix,
};

/// What can be a directory's name, as it is declared.
const ALLOWED: &str = "string, int32, int64, bool and date";

/// How a directory is found.
pub(crate) struct Placement {
    layout: Layout,
    /// The column that says the time, if it is not the record.
    time: Option<usize>,
    fields: Vec<Placed>,
    /// Which columns files have.
    kept: Vec<usize>,
    /// The hour that was asked for last, and its directory.
    last: Option<(Option<i64>, String)>,
}

/// A field that directories are called after.
struct Placed {
    name: &'static str,
    prefix: String,
    column: usize,
}

impl Placement {
    /// Finds the fields of a layout among the columns; nothing for one that goes by records' timestamps alone.
    pub(crate) fn new(layout: Layout, shape: &Shape) -> Result<Option<Self>, Misplaced> {
        let Layout::Fields(_) = layout else { return Ok(None) };
        let Some(fields) = shape.fields() else {
            let problem = "values of bytes or text have no fields".to_owned();
            return Err(Misplaced { at: MisplacedAt::Whole, problem });
        };
        let find = |name: &str, allowed: &str, is_allowed: fn(&Kind) -> bool| {
            let Some(column) = fields.iter().position(|field| field.name == name) else {
                let names: Vec<_> =
                    fields.iter().filter(|field| is_allowed(&field.kind)).map(|field| &*field.name).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(format!(
                    "the value has no field {name:?}; of those of type {allowed} it has {names}"
                ));
            };
            match is_allowed(&fields[column].kind) {
                true => Ok(column),
                false => Err(format!(
                    "{name:?} is of type {}, and {allowed} can be here",
                    fields[column].kind.name()
                )),
            }
        };
        let time = layout.time_field().map(|name| {
            find(name, "timestamp", |kind| matches!(kind, Kind::Timestamp))
                .map_err(|problem| Misplaced { at: MisplacedAt::TimeField, problem })
        });
        let placed = layout.fields().iter().enumerate().map(|(at, name)| {
            let column = find(name, ALLOWED, is_scalar);
            let column = column.map_err(|problem| Misplaced { at: MisplacedAt::Field(at), problem })?;
            Ok(Placed { name, prefix: prefix(name), column })
        });
        let (time, placed) = (time.transpose()?, placed.collect::<Result<Vec<_>, _>>()?);
        let columns = shape.schema().fields().len();
        let kept: Vec<_> =
            (0..columns).filter(|column| placed.iter().all(|field| field.column != *column)).collect();
        if kept.is_empty() {
            let problem = "no column is left for the files".to_owned();
            return Err(Misplaced { at: MisplacedAt::Whole, problem });
        }
        Ok(Some(Self { layout, time, fields: placed, kept, last: None }))
    }

    /// Which columns files have.
    pub(crate) fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// The directory of a record, whose value is the last in these columns, and its time.
    pub(crate) fn place(
        &mut self,
        record: &ConsumedRecord,
        columns: &[Column],
        directory: &mut String,
    ) -> Result<Option<Millis>, Unconvertible> {
        directory.clear();
        let time = match self.time.map(|column| columns[column].last()) {
            None => known(record.timestamp),
            Some(Some(Scalar::Micros(micros))) => of_field(micros),
            Some(_) => None,
        };
        let hour = time.map(|time| time.as_microsecond().div_euclid(3_600_000_000));
        match &self.last {
            Some((last, name)) if *last == hour => directory.push_str(name),
            _ => {
                let name = self.layout.time_directory(time);
                directory.push_str(&name);
                self.last = Some((hour, name));
            }
        }
        let of_time = directory.len();
        for Placed { name, prefix, column } in &self.fields {
            let unconvertible = |problem: String| Unconvertible { field: Some((*name).to_owned()), problem };
            if !directory.is_empty() {
                directory.push('/');
            }
            let begin = directory.len();
            directory.push_str(prefix);
            let value = columns[*column].last().expect("only such a column is taken");
            called(value, directory).map_err(unconvertible)?;
            let bytes = directory.len() - begin;
            if bytes > NAME_BYTES_MAX {
                return Err(unconvertible(format!(
                    "its directory's name would have {bytes} bytes, and {NAME_BYTES_MAX} are allowed"
                )));
            }
            let bytes = directory.len() - of_time;
            if bytes > FIELDS_BYTES_MAX {
                return Err(unconvertible(format!(
                    "with it the directories of fields would have {bytes} bytes together, and {FIELDS_BYTES_MAX} are allowed"
                )));
            }
        }
        Ok(time.map(|time| Millis(time.as_microsecond().div_euclid(1000))))
    }

    /// The directory of a range that has no rows, of a record's time.
    pub(crate) fn nowhere(&self, timestamp: Millis) -> String {
        let time = known(timestamp).filter(|_| self.time.is_none());
        let of_time = Some(self.layout.time_directory(time)).filter(|name| !name.is_empty());
        let of_fields = self.fields.iter().map(|field| format!("{}{UNKNOWN}", field.prefix));
        of_time.into_iter().chain(of_fields).collect::<Vec<_>>().join("/")
    }
}

/// Whether a directory can be called after a field of this kind.
fn is_scalar(kind: &Kind) -> bool {
    matches!(kind, Kind::String | Kind::Int32 | Kind::Int64 | Kind::Bool | Kind::Date)
}

/// What a directory is called after a value, behind its field's name. Nothing and the empty text are the same there.
fn called(value: Scalar<'_>, name: &mut String) -> Result<(), String> {
    match value {
        Scalar::Null | Scalar::Text("") => name.push_str(UNKNOWN),
        // It would be read as nothing.
        Scalar::Text(UNKNOWN) => return Err(format!("{UNKNOWN:?} is what directories call null")),
        // Listings of object stores are XML, which has none.
        Scalar::Text(text) if text.contains(['\u{fffe}', '\u{ffff}']) => {
            return Err("U+FFFE and U+FFFF are no characters that a directory's name has".to_owned());
        }
        Scalar::Text(text) => escape(text, name),
        Scalar::Whole(number) => write!(name, "{number}").expect("a text takes it"),
        Scalar::Bool(is) => write!(name, "{is}").expect("a text takes it"),
        Scalar::Days(days) => {
            let epoch = jiff::civil::date(1970, 1, 1);
            let span = jiff::SignedDuration::from_hours(i64::from(days) * 24);
            match epoch.checked_add(span).ok().filter(|date| has_year(*date)) {
                Some(date) => write!(name, "{date}").expect("a text takes it"),
                None => return Err(format!("{days} days since 1970 is no date of the years 1 to 9999")),
            }
        }
        Scalar::Micros(_) => unreachable!("only such a column is taken"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use wire::Millis;

    use super::Placement;
    use crate::columns::{Columns, Extra, Format, Shape, Unconvertible};
    use crate::kind::{JsonField, Kind};
    use crate::layout::Layout;
    use crate::testing::record;

    fn shape() -> Arc<Shape> {
        let field = |name: &str, kind| JsonField { name: name.to_owned(), kind, is_required: false };
        let fields = vec![
            field("at", Kind::Timestamp),
            field("city", Kind::String),
            field("shop", Kind::Int32),
            field("id", Kind::Int64),
            field("paid", Kind::Bool),
            field("day", Kind::Date),
            field("price", Kind::Float64),
        ];
        Arc::new(Shape::new(Format::Json(fields), vec![Extra::Offset]).unwrap())
    }

    /// Where values go, or why nowhere.
    fn told(layout: Layout, values: &[&str]) -> String {
        let shape = shape();
        let mut placement = Placement::new(layout, &shape).unwrap().unwrap();
        let mut told = String::new();
        let mut columns = Columns::new(Arc::clone(&shape));
        for value in values {
            let mut directory = String::new();
            let mut record = record(Some(value.as_bytes()));
            record.timestamp = Millis(1_700_000_000_000);
            let appended: Result<_, Unconvertible> = columns
                .append_if(&record, |columns| placement.place(&record, columns, &mut directory).map(|_| ()));
            told += &match appended {
                Ok(()) => format!("{directory}\n"),
                Err(Unconvertible { field, problem }) => {
                    columns.finish();
                    format!("{}: {problem}\n", field.unwrap_or_default())
                }
            };
        }
        told
    }

    fn check(layout: Layout, values: &[&str], expected: Expect) {
        expected.assert_eq(&told(layout, values));
    }

    #[test]
    fn directories_are_called_after_what_columns_hold() {
        let layout = Layout::Flat.by(None, &["city", "shop", "id", "paid", "day"]).unwrap();
        check(
            layout,
            &[
                r#"{"city":"Köln/Süd","shop":-7,"id":9223372036854775807,"paid":true,"day":"2024-02-29"}"#,
                r#"{"city":"..","shop":0,"paid":false,"day":"0001-01-01"}"#,
                r#"{"city":"","day":"9999-12-31"}"#,
                r#"{"city":"__HIVE_DEFAULT_PARTITION__"}"#,
                r#"{"city":"a","day":"0000-01-01"}"#,
            ],
            expect![[r#"
                city=Köln%2FSüd/shop=-7/id=9223372036854775807/paid=true/day=2024-02-29
                city=../shop=0/id=__HIVE_DEFAULT_PARTITION__/paid=false/day=0001-01-01
                city=__HIVE_DEFAULT_PARTITION__/shop=__HIVE_DEFAULT_PARTITION__/id=__HIVE_DEFAULT_PARTITION__/paid=__HIVE_DEFAULT_PARTITION__/day=9999-12-31
                city: "__HIVE_DEFAULT_PARTITION__" is what directories call null
                day: -719528 days since 1970 is no date of the years 1 to 9999
            "#]],
        );
    }

    #[test]
    fn a_field_says_the_time_or_the_record_does() {
        let values = [
            r#"{"at":1700010000000,"shop":1}"#,
            r#"{"at":1700010000000,"shop":2}"#,
            r#"{"at":"1969-12-31T23:59:59.999999Z","shop":2}"#,
            r#"{"at":null,"shop":2}"#,
            r#"{"shop":2}"#,
            r#"{"at":9000000000000000}"#,
        ];
        check(
            Layout::Hour.by(Some("at"), &["shop"]).unwrap(),
            &values,
            expect![[r#"
                dt=2023-11-15/hour=01/shop=1
                dt=2023-11-15/hour=01/shop=2
                dt=1969-12-31/hour=23/shop=2
                dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__/shop=2
                dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__/shop=2
                dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__/shop=__HIVE_DEFAULT_PARTITION__
            "#]],
        );
        check(
            Layout::Day.by(None, &["shop"]).unwrap(),
            &values[..2],
            expect![[r#"
                dt=2023-11-14/shop=1
                dt=2023-11-14/shop=2
            "#]],
        );
    }

    #[test]
    fn a_name_that_no_file_system_takes_is_refused() {
        let city = |bytes: usize| format!("{{\"city\":\"{}\",\"shop\":1}}", "x".repeat(bytes));
        let slashes = format!("{{\"city\":\"{}\"}}", "/".repeat(84));
        check(
            Layout::Flat.by(None, &["shop", "city"]).unwrap(),
            &[&city(251), &slashes],
            expect![[r#"
                city: its directory's name would have 256 bytes, and 255 are allowed
                city: its directory's name would have 257 bytes, and 255 are allowed
            "#]],
        );
        let longest = told(Layout::Flat.by(None, &["city"]).unwrap(), &[&city(250)]);
        assert_eq!(longest, format!("city={}\n", "x".repeat(250)));
    }

    #[test]
    fn a_layout_goes_by_fields_that_are_there_and_can_be_names() {
        let refused = |layout: Layout| Placement::new(layout, &shape()).err().unwrap().problem;
        assert_eq!(
            refused(Layout::Hour.by(Some("when"), &[]).unwrap()),
            "the value has no field \"when\"; of those of type timestamp it has at"
        );
        assert_eq!(
            refused(Layout::Hour.by(None, &["price"]).unwrap()),
            "\"price\" is of type float64, and string, int32, int64, bool and date can be here"
        );
        let text = Shape::new(Format::Text, Vec::new()).unwrap();
        let layout = Layout::Flat.by(None, &["value"]).unwrap();
        let problem = Placement::new(layout, &text).err().unwrap().problem;
        assert_eq!(problem, "values of bytes or text have no fields");
    }

    #[test]
    fn where_a_range_without_rows_is() {
        let nowhere = |layout| {
            let placement = Placement::new(layout, &shape()).unwrap().unwrap();
            placement.nowhere(Millis(1_700_000_000_000))
        };
        assert_eq!(
            nowhere(Layout::Day.by(None, &["city"]).unwrap()),
            "dt=2023-11-14/city=__HIVE_DEFAULT_PARTITION__"
        );
        // Its time is not known, and would be taken for how far the table has come.
        assert_eq!(nowhere(Layout::Day.by(Some("at"), &[]).unwrap()), "dt=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(nowhere(Layout::Flat.by(None, &["city"]).unwrap()), "city=__HIVE_DEFAULT_PARTITION__");
    }
}
