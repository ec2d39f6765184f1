//! Avro values straight into columns, resolved from what their writer meant to what the table has.
//!
//! After Avro 1.12, "Schema Resolution" and "Binary Encoding". Which bytes go where is worked out once for a writer's schema
//! ([`Plan`]); reading follows that, without a tree between. Strict as JSON is: nothing is rounded, cut off or left over, and what
//! a length or a count claims is believed only as far as there are bytes for it.

use std::collections::HashSet;

use crate::avro_schema::{Field, Form, Logical, Place, Schema, Type};
use crate::column::{Column, ListColumn, MapColumn, StructColumn};
use crate::decimal;
use crate::fault::Fault;
use crate::protobuf::{COLUMN_BYTES, EXTRA_MAX};

/// How deep values may be nested of which nothing is kept.
const SKIPPED_DEPTH_MAX: usize = 256;
/// Items of one value's lists and maps, together, that take no byte, as nulls do.
const EMPTY_ITEMS_MAX: usize = 4096;
/// What an item counts for that took no byte.
const EMPTY_ITEM_BYTES: usize = 16;
/// The most steps of a plan.
const STEPS_MAX: usize = 200_000;

/// How values of one writer's schema become rows.
#[derive(Debug)]
pub(crate) struct Plan {
    writer: Schema,
    fields: Vec<Step>,
    defaults: Vec<Default>,
}

/// What comes next in a record, as it was written.
#[derive(Debug)]
enum Step {
    /// Nothing that is kept.
    Skip(Place),
    Into(Target),
}

/// A column, and how it is filled.
#[derive(Debug)]
struct Target {
    column: usize,
    name: String,
    read: Read,
}

/// A column that the writer does not know, and the bytes of what is there instead.
#[derive(Debug)]
struct Default {
    bytes: Vec<u8>,
    target: Target,
}

/// How bytes become a value of a column.
#[derive(Debug)]
enum Read {
    Null,
    Bool,
    Int(Whole),
    Long(Whole),
    Float,
    FloatAsDouble,
    Double,
    Bytes(Blob),
    Fixed(usize, Blob),
    Enum(Vec<Result<String, String>>),
    List(Box<Read>),
    Map(Box<Read>),
    Struct(Vec<Step>, Vec<Default>),
    Union(Vec<Read>),
    /// A member of a union that the column does not take.
    Never(String),
}

/// What a whole number becomes.
#[derive(Debug, Clone, Copy)]
enum Whole {
    Int32,
    Int64,
    Float32,
    Float64,
    Date,
    Millis,
    Micros,
}

/// What bytes become.
#[derive(Debug, Clone, Copy)]
enum Blob {
    Text,
    Bytes,
    Decimal { precision: u8, scale: u8 },
    Uuid,
}

impl Plan {
    /// How what `writer` has written becomes columns of `reader`, of which [`Schema::columns`] has said what they are.
    pub(crate) fn new(writer: Schema, reader: &Schema) -> Result<Self, Fault> {
        let mut resolver = Resolver { writer: &writer, reader, left: STEPS_MAX };
        match resolver.resolve(writer.root, reader.root)? {
            Read::Struct(fields, defaults) => Ok(Self { writer, fields, defaults }),
            _ => Err(Fault::new(format!("{} is no record", writer.told(writer.root)))),
        }
    }

    /// Appends a value. Gives what it takes beyond its own bytes.
    pub(crate) fn append(&self, value: &[u8], columns: &mut [Column]) -> Result<usize, Fault> {
        let mut input = Input { bytes: value, empty_items: 0, extra: 0 };
        record(&self.writer, &self.fields, &self.defaults, &mut input, columns)?;
        match input.bytes.len() {
            0 => Ok(input.extra),
            left => Err(Fault::new(format!("{left} bytes are left behind the value"))),
        }
    }
}

struct Resolver<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    left: usize,
}

impl Resolver<'_> {
    fn resolve(&mut self, from: Place, to: Place) -> Result<Read, Fault> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| Fault::new("the schema takes more steps to be read than there may be"))?;
        if let Form::Union(members) = &self.writer.at(from).form {
            let mut reads = Vec::with_capacity(members.len());
            let mut problem = None;
            for &member in members {
                reads.push(self.resolve(member, to).unwrap_or_else(|fault| {
                    let told = fault.told();
                    problem.get_or_insert(fault);
                    Read::Never(told)
                }));
            }
            let is_none = reads.iter().all(|read| matches!(read, Read::Never(_)));
            return match problem {
                Some(fault) if is_none => Err(fault),
                _ => Ok(Read::Union(reads)),
            };
        }
        let is_nullable = matches!(self.reader.at(to).form, Form::Union(_));
        let to = self.reader.without_null(to).expect("other unions are no columns");
        match self.writer.at(from).form {
            Form::Null if is_nullable => Ok(Read::Null),
            _ => self.one(from, to),
        }
    }

    /// What is no union, from and to.
    fn one(&mut self, from: Place, to: Place) -> Result<Read, Fault> {
        let (writer, reader) = (self.writer, self.reader);
        let Type { form: written, logical: meant } = writer.at(from);
        let Type { form: read, logical } = reader.at(to);
        let mismatch =
            || Fault::new(format!("{} was written, which is no {}", writer.told(from), reader.told(to)));
        Ok(match (written, read) {
            (Form::Boolean, Form::Boolean) => Read::Bool,
            (Form::Int, Form::Int) if *logical == Some(Logical::Date) => Read::Int(Whole::Date),
            (Form::Int, Form::Int) => Read::Int(Whole::Int32),
            (Form::Int | Form::Long, Form::Long) => {
                // A moment is in the writer's unit, and in the reader's where the writer had none.
                let as_what = match (logical, meant.or(*logical)) {
                    (Some(_), Some(Logical::TimestampMillis)) => Whole::Millis,
                    (Some(_), _) => Whole::Micros,
                    (None, _) => Whole::Int64,
                };
                match written {
                    Form::Int => Read::Int(as_what),
                    _ => Read::Long(as_what),
                }
            }
            (Form::Int, Form::Float) => Read::Int(Whole::Float32),
            (Form::Int, Form::Double) => Read::Int(Whole::Float64),
            (Form::Long, Form::Float) => Read::Long(Whole::Float32),
            (Form::Long, Form::Double) => Read::Long(Whole::Float64),
            (Form::Float, Form::Float) => Read::Float,
            (Form::Float, Form::Double) => Read::FloatAsDouble,
            (Form::Double, Form::Double) => Read::Double,
            (Form::String | Form::Bytes, Form::String) => Read::Bytes(Blob::Text),
            (Form::String, Form::Bytes) if logical.is_some() => return Err(mismatch()),
            (Form::String | Form::Bytes, Form::Bytes) => {
                Read::Bytes(blob(*meant, *logical).ok_or_else(mismatch)?)
            }
            (Form::Fixed { name, size }, Form::Fixed { name: wanted, size: size_wanted }) => {
                if size != size_wanted {
                    return Err(Fault::new(format!(
                        "{size} bytes were written, and {} has {size_wanted}",
                        reader.told(to)
                    )));
                }
                self.named(wanted.is_of(name), from, to)?;
                Read::Fixed(*size, blob(*meant, *logical).ok_or_else(mismatch)?)
            }
            (Form::Enum { name, symbols, .. }, Form::Enum { name: wanted, symbols: known, default }) => {
                self.named(wanted.is_of(name), from, to)?;
                let of = |symbol: &String| match (known.contains(symbol), default) {
                    (true, _) => Ok(symbol.clone()),
                    (false, Some(default)) => Ok(known[*default].clone()),
                    (false, None) => {
                        Err(format!("{symbol:?} is no symbol of {}, which has no default", reader.told(to)))
                    }
                };
                Read::Enum(symbols.iter().map(of).collect())
            }
            (Form::Array(items), Form::Array(wanted)) => {
                Read::List(Box::new(self.resolve(*items, *wanted).map_err(Fault::in_items)?))
            }
            (Form::Map(values), Form::Map(wanted)) => {
                Read::Map(Box::new(self.resolve(*values, *wanted).map_err(Fault::in_items)?))
            }
            (Form::Record { name, fields }, Form::Record { name: wanted, fields: columns }) => {
                self.named(wanted.is_of(name), from, to)?;
                let (steps, defaults) = self.fields(fields, columns)?;
                Read::Struct(steps, defaults)
            }
            _ => return Err(mismatch()),
        })
    }

    fn named(&self, is_of: bool, from: Place, to: Place) -> Result<(), Fault> {
        match is_of {
            true => Ok(()),
            false => Err(Fault::new(format!(
                "{} was written, and {} has neither that name nor such an alias",
                self.writer.told(from),
                self.reader.told(to)
            ))),
        }
    }

    fn fields(&mut self, written: &[Field], columns: &[Field]) -> Result<(Vec<Step>, Vec<Default>), Fault> {
        // By name first: an alias stands for a field that is called otherwise by all readers' names.
        let mut into = vec![None; written.len()];
        let mut is_there = vec![false; columns.len()];
        for by_alias in [false, true] {
            for (column, wanted) in columns.iter().enumerate() {
                if is_there[column] {
                    continue;
                }
                let found = written.iter().enumerate().position(|(at, field)| {
                    let is_it = match by_alias {
                        false => field.name == wanted.name,
                        true => wanted.aliases.contains(&field.name),
                    };
                    into[at].is_none() && is_it
                });
                if let Some(at) = found {
                    into[at] = Some(column);
                    is_there[column] = true;
                }
            }
        }
        let mut steps = Vec::with_capacity(written.len());
        for (field, into) in written.iter().zip(into) {
            steps.push(match into {
                None => Step::Skip(field.of),
                Some(column) => {
                    let Field { name, of, .. } = &columns[column];
                    let read = self.resolve(field.of, *of).map_err(|fault| fault.in_field(name))?;
                    Step::Into(Target { column, name: name.clone(), read })
                }
            });
        }
        let mut defaults = Vec::new();
        for (column, field) in columns.iter().enumerate().filter(|(column, _)| !is_there[*column]) {
            let default = field.default.as_ref().ok_or_else(|| {
                Fault::new("the writer has no such field, and it has no default".to_owned())
                    .in_field(&field.name)
            })?;
            let mut bytes = Vec::new();
            let written = self.reader.encode(field.of, default, &mut bytes);
            let itself = written.and_then(|()| {
                Resolver { writer: self.reader, reader: self.reader, left: self.left }
                    .resolve(field.of, field.of)
            });
            let read = itself.map_err(|fault| fault.in_field(&field.name))?;
            defaults.push(Default { bytes, target: Target { column, name: field.name.clone(), read } });
        }
        Ok((steps, defaults))
    }
}

/// What bytes become, going by what was meant and what is wanted; nothing, if these are two things.
fn blob(meant: Option<Logical>, wanted: Option<Logical>) -> Option<Blob> {
    match (meant, wanted) {
        (_, None) => Some(Blob::Bytes),
        (_, Some(Logical::Uuid)) => Some(Blob::Uuid),
        (meant, Some(Logical::Decimal { precision, scale })) => {
            let is_of_scale = match meant {
                Some(Logical::Decimal { scale: written, .. }) => written == scale,
                _ => true,
            };
            let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
            is_of_scale.then_some(Blob::Decimal { precision, scale })
        }
        _ => None,
    }
}

/// What is left of a value.
struct Input<'a> {
    bytes: &'a [u8],
    /// Items that took none.
    empty_items: usize,
    /// What was appended beyond what was read.
    extra: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        match self.bytes.split_at_checked(count) {
            Some((taken, left)) => {
                self.bytes = left;
                Ok(taken)
            }
            None => {
                let left = self.bytes.len();
                Err(Fault::new(format!("{count} bytes are announced, and {left} are left")))
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    fn long(&mut self) -> Result<i64, Fault> {
        let mut value = 0_u64;
        for (at, &byte) in self.bytes.iter().enumerate().take(10) {
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.bytes = &self.bytes[at + 1..];
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Fault::new(match self.bytes.len() {
            0..10 => "the value ends within a number",
            _ => "a number has more than 64 bits",
        }))
    }

    fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| Fault::new(format!("{value} is not a whole number of 32 bits")))
    }

    fn len(&mut self) -> Result<usize, Fault> {
        let len = self.long()?;
        usize::try_from(len).map_err(|_| Fault::new(format!("{len} is no length")))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        text(self.bytes()?)
    }

    /// Which of so many.
    fn choice<'c, T>(&mut self, of: &'c [T]) -> Result<&'c T, Fault> {
        let chosen = self.long()?;
        let found = usize::try_from(chosen).ok().and_then(|chosen| of.get(chosen));
        found.ok_or_else(|| Fault::new(format!("{chosen} is none of the {} there are", of.len())))
    }

    /// Goes through the blocks of a list or a map; how many items there are.
    fn items(&mut self, mut item: impl FnMut(&mut Self, usize) -> Result<(), Fault>) -> Result<usize, Fault> {
        let mut count = 0;
        loop {
            let mut left = self.long()?;
            if left == 0 {
                return Ok(count);
            }
            if left < 0 {
                left =
                    left.checked_neg().ok_or_else(|| Fault::new(format!("{left} is no number of items")))?;
                // Of the block, for those who pass over it.
                self.len()?;
            }
            for _ in 0..left {
                let before = self.bytes.len();
                item(self, count)?;
                if self.bytes.len() == before {
                    self.empty_item()?;
                }
                count += 1;
            }
        }
    }

    /// Few bytes may stand for much: a null for all the columns of a record, a number for a symbol.
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.extra += bytes;
        match self.extra > EXTRA_MAX {
            true => Err(Fault::new(format!("a value stands for at most {EXTRA_MAX} bytes beyond its own"))),
            false => Ok(()),
        }
    }

    /// One that takes no byte may be announced in any number.
    fn empty_item(&mut self) -> Result<(), Fault> {
        self.empty_items += 1;
        self.charge(EMPTY_ITEM_BYTES)?;
        match self.empty_items > EMPTY_ITEMS_MAX {
            true => Err(Fault::new(format!("a value has at most {EMPTY_ITEMS_MAX} items that take no byte"))),
            false => Ok(()),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| Fault::new(format!("the text is not UTF-8: {error}")))
}

impl Target {
    fn fill(&self, writer: &Schema, input: &mut Input<'_>, columns: &mut [Column]) -> Result<(), Fault> {
        let appended = self.read.append(writer, input, &mut columns[self.column]);
        appended.map_err(|fault| fault.in_field(&self.name))
    }
}

fn record(
    writer: &Schema,
    steps: &[Step],
    defaults: &[Default],
    input: &mut Input<'_>,
    columns: &mut [Column],
) -> Result<(), Fault> {
    for step in steps {
        match step {
            Step::Skip(place) => skip(writer, *place, input, 0)?,
            Step::Into(target) => target.fill(writer, input, columns)?,
        }
    }
    for Default { bytes, target } in defaults {
        let mut default = Input { bytes, empty_items: 0, extra: bytes.len() };
        target.fill(writer, &mut default, columns)?;
        input.charge(default.extra)?;
    }
    Ok(())
}

impl Read {
    /// Appends a value to a column, which is of the kind that it was resolved to.
    fn append(&self, writer: &Schema, input: &mut Input<'_>, column: &mut Column) -> Result<(), Fault> {
        match (self, column) {
            (Self::Null, column) => {
                input.charge(column.width() * COLUMN_BYTES)?;
                column.null();
            }
            (Self::Bool, Column::Bool(column)) => match input.array()? {
                [0] => column.append_value(false),
                [1] => column.append_value(true),
                [other] => return Err(Fault::new(format!("{other} is neither true nor false"))),
            },
            (Self::Int(whole), column) => whole.append(input.int()?.into(), column)?,
            (Self::Long(whole), column) => whole.append(input.long()?, column)?,
            (Self::Float, Column::Float32(column)) => column.append_value(f32::from_le_bytes(input.array()?)),
            (Self::FloatAsDouble, Column::Float64(column)) => {
                column.append_value(f32::from_le_bytes(input.array()?).into());
            }
            (Self::Double, Column::Float64(column)) => {
                column.append_value(f64::from_le_bytes(input.array()?))
            }
            (Self::Bytes(blob), column) => blob.append(input.bytes()?, column)?,
            (Self::Fixed(size, blob), column) => blob.append(input.take(*size)?, column)?,
            (Self::Enum(symbols), Column::String(column)) => {
                let symbol =
                    input.choice(symbols)?.as_deref().map_err(|problem| Fault::new(problem.clone()))?;
                input.charge(symbol.len())?;
                column.append_value(symbol);
            }
            (Self::List(item), Column::List(column)) => {
                let ListColumn { items, .. } = column;
                let count = input.items(|input, at| {
                    item.append(writer, input, items).map_err(|fault| fault.at_index(at))
                })?;
                column.push(count);
            }
            (Self::Map(value), Column::Map(column)) => {
                let MapColumn { keys, values, .. } = column;
                let mut seen = HashSet::new();
                let count = input.items(|input, _| {
                    let key = input.text()?;
                    if !seen.insert(key) {
                        return Err(Fault::new("the key comes twice").at_key(key));
                    }
                    keys.append_value(key);
                    value.append(writer, input, values).map_err(|fault| fault.at_key(key))
                })?;
                column.push(count);
            }
            (Self::Struct(steps, defaults), Column::Struct(column)) => {
                let StructColumn { columns, .. } = column;
                record(writer, steps, defaults, input, columns)?;
                column.push();
            }
            (Self::Union(members), column) => input.choice(members)?.append(writer, input, column)?,
            (Self::Never(problem), _) => return Err(Fault::new(problem.clone())),
            _ => unreachable!("it was resolved to the column's kind"),
        }
        Ok(())
    }
}

impl Whole {
    fn append(self, value: i64, column: &mut Column) -> Result<(), Fault> {
        let rounded = |kind: &str| Fault::new(format!("{value} would be rounded as {kind}"));
        match (self, column) {
            (Self::Int64, Column::Int64(column)) => column.append_value(value),
            (Self::Micros, Column::Timestamp(column)) => column.append_value(value),
            (Self::Millis, Column::Timestamp(column)) => {
                let micros = value
                    .checked_mul(1000)
                    .ok_or_else(|| Fault::new(format!("{value} is no time in milliseconds since 1970")))?;
                column.append_value(micros);
            }
            (Self::Float32, Column::Float32(column)) => {
                let float = value as f32;
                if float as i128 != i128::from(value) {
                    return Err(rounded("a float of 32 bits"));
                }
                column.append_value(float);
            }
            (Self::Float64, Column::Float64(column)) => {
                let float = value as f64;
                if float as i128 != i128::from(value) {
                    return Err(rounded("a float of 64 bits"));
                }
                column.append_value(float);
            }
            (whole, column) => {
                let value = i32::try_from(value)
                    .map_err(|_| Fault::new(format!("{value} is not a whole number of 32 bits")))?;
                match (whole, column) {
                    (Self::Int32, Column::Int32(column)) => column.append_value(value),
                    (Self::Date, Column::Date(column)) => column.append_value(value),
                    _ => unreachable!("it was resolved to the column's kind"),
                }
            }
        }
        Ok(())
    }
}

impl Blob {
    fn append(self, bytes: &[u8], column: &mut Column) -> Result<(), Fault> {
        match (self, column) {
            (Self::Text, Column::String(column)) => column.append_value(text(bytes)?),
            (Self::Bytes, Column::Binary(column)) => column.append_value(bytes),
            (Self::Decimal { precision, scale }, Column::Decimal(column)) => {
                let value = decimal::of_bytes(bytes, precision).ok_or_else(|| {
                    Fault::new(format!(
                        "a number of {} bytes is no decimal({precision},{scale})",
                        bytes.len()
                    ))
                })?;
                column.append_value(value);
            }
            (Self::Uuid, Column::String(column)) => {
                let bytes: [u8; 16] = bytes.try_into().expect("only what has 16 bytes is one");
                column.append_value(uuid(bytes));
            }
            _ => unreachable!("it was resolved to the column's kind"),
        }
        Ok(())
    }
}

/// After RFC 9562, section 4.
fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Passes over a value of which nothing is kept.
fn skip(schema: &Schema, place: Place, input: &mut Input<'_>, depth: usize) -> Result<(), Fault> {
    if depth > SKIPPED_DEPTH_MAX {
        return Err(Fault::new(format!("values are nested more than {SKIPPED_DEPTH_MAX} deep")));
    }
    match &schema.at(place).form {
        Form::Null => {}
        Form::Boolean => drop(input.take(1)?),
        Form::Int | Form::Long | Form::Enum { .. } => drop(input.long()?),
        Form::Float => drop(input.take(4)?),
        Form::Double => drop(input.take(8)?),
        Form::Bytes | Form::String => drop(input.bytes()?),
        Form::Fixed { size, .. } => drop(input.take(*size)?),
        Form::Array(items) => drop(input.items(|input, _| skip(schema, *items, input, depth + 1))?),
        Form::Map(values) => drop(input.items(|input, _| {
            input.bytes()?;
            skip(schema, *values, input, depth + 1)
        })?),
        Form::Union(members) => skip(schema, *input.choice(members)?, input, depth + 1)?,
        Form::Record { fields, .. } => {
            let before = input.bytes.len();
            for field in fields {
                skip(schema, field.of, input, depth + 1)?;
            }
            // Records of nothing within records of nothing are more than there are bytes.
            if input.bytes.len() == before {
                input.empty_item()?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use crate::encoded::Encoded;
    use crate::testing::{columns, hex, record, row, rows};

    const ORDER: &str = include_str!("../tests/data/order.avsc");
    // Of an implementation that is not this one: fastavro 1.13.
    const FULL: &str = "0d020e5ac3bc72696368020601e240e8ffb4c0e6630282c0c99de7d88b06014831323334353637382d396162632d646566302d313233342d3536373839616263646566300001020304050402000000003ffeffffff0f020002026102000000000000f83f0002084d61696e0202060200010400ff";
    const EMPTY: &str = "feffffffffffffffff01000002ff010088b6024830303030303030302d303030302d303030302d303030302d303030303030303030303030ffffffffffff0000000000";

    fn order() -> Arc<Encoded> {
        Arc::new(Encoded::avro_text(ORDER).unwrap())
    }

    #[test]
    fn values_of_every_type_become_columns() {
        let encoded = order();
        let mut columns = columns(Arc::clone(&encoded));
        for value in [FULL, EMPTY] {
            columns.append(&record(Some(&hex(value)))).unwrap();
        }
        let both = rows(&columns.finish());
        assert_eq!(
            both,
            format!("{}\n{}", row(&encoded, Some(&hex(FULL))), row(&encoded, Some(&hex(EMPTY))))
        );
        expect![[r#"
            id=-7 city="Zürich" state="PAID" price=1234.56 at=2024-05-01T12:00:00.5Z seen=2024-05-01T12:00:00.000001Z day=1969-12-31 key="12345678-9abc-def0-1234-56789abcdef0" mac=000102030405 lines=[{sku=1 weight=0.5} {sku=2147483647 weight=-}] counts={"a":1.5} ship={street="Main" lines=[{sku=3 weight=-}]} paid=true raw=00ff
            id=9223372036854775807 city=- state="NEW" price=-0.01 at=1969-12-31T23:59:59.999Z seen=- day=2024-05-01 key="00000000-0000-0000-0000-000000000000" mac=ffffffffffff lines=[] counts={} ship=- paid=false raw="#]].assert_eq(&both);
    }

    #[test]
    fn few_bytes_do_not_stand_for_much() {
        let fields: Vec<_> = (0..50).map(|at| json!({ "name": format!("f{at}"), "type": "long" })).collect();
        let wide = json!({ "type": "record", "name": "Wide", "fields": fields });
        let long = json!({ "type": "enum", "name": "Long", "symbols": ["a".repeat(1000), "b"] });
        for items in [json!(["null", wide]), long] {
            let list = json!({ "name": "l", "type": { "type": "array", "items": items } });
            let schema = json!({ "type": "record", "name": "Lists", "fields": [list] });
            let encoded = Arc::new(Encoded::avro_text(&schema.to_string()).unwrap());
            // A million items of a byte each.
            let value = [hex("80897a"), vec![0; 1_000_001]].concat();
            let told = row(&encoded, Some(&value));
            assert!(told.ends_with("a value stands for at most 67108864 bytes beyond its own"), "{told}");
        }
    }

    #[test]
    fn what_is_no_value_says_where_and_leaves_no_row() {
        let encoded = order();
        let full = hex(FULL);
        let mut told = String::new();
        let mut check = |what: &str, value: &[u8]| {
            let mut columns = columns(Arc::clone(&encoded));
            columns.append(&record(Some(&full))).unwrap();
            columns.append(&record(Some(value))).unwrap_err();
            assert_eq!(columns.finish().num_rows(), 1);
            told += &format!("{what}: {}\n", row(&encoded, Some(value)));
        };
        check("nothing", &[]);
        check("one byte more", &[&full[..], &[0]].concat());
        check("one byte less", &full[..full.len() - 1]);
        check("a number without end", &[0xff; 12]);
        check("a number of 65 bits", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]);
        check("a third member of two", &[0, 4]);
        check("a member before the first", &[0, 1]);
        check("a text of 2^62 bytes", &hex("000280808080808080808001"));
        check("a text of -1 bytes", &hex("000201"));
        check("a text that is none", &hex("000202ff"));
        check("a symbol that is none", &hex("000004"));
        check("too many digits", &hex("000000060f4240"));
        let until_lines = |rest: &str| {
            let at = full.windows(8).position(|at| at == hex("0402000000003ffe")).unwrap();
            [&full[..at], &hex(rest)].concat()
        };
        check("2^60 lines", &until_lines("8080808080808080 2002"));
        check("-2^63 lines", &until_lines("ffffffffffffffffff01"));
        check("a block of -1 bytes", &until_lines("0101"));
        check("a line's weight", &until_lines("0402000000003f0208"));
        check("a sku of 33 bits", &until_lines("028080808020"));
        check("a key twice", &until_lines("000402610002610000"));
        expect![[r#"
            nothing: id: the value ends within a number
            one byte more: -: 1 bytes are left behind the value
            one byte less: raw: 2 bytes are announced, and 1 are left
            a number without end: id: a number has more than 64 bits
            a number of 65 bits: id: a number has more than 64 bits
            a third member of two: city: 2 is none of the 2 there are
            a member before the first: city: -1 is none of the 2 there are
            a text of 2^62 bytes: city: 4611686018427387904 bytes are announced, and 0 are left
            a text of -1 bytes: city: -1 is no length
            a text that is none: city: the text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
            a symbol that is none: state: 2 is none of the 2 there are
            too many digits: price: a number of 3 bytes is no decimal(6,2)
            2^60 lines: lines[0].weight: the value ends within a number
            -2^63 lines: lines: -9223372036854775808 is no number of items
            a block of -1 bytes: lines: -1 is no length
            a line's weight: lines[1].weight: 4 is none of the 2 there are
            a sku of 33 bits: lines[0].sku: 4294967296 is not a whole number of 32 bits
            a key twice: counts["a"]: the key comes twice
        "#]]
        .assert_eq(&told);
        expect!["id: the record has no value, and the field is required"].assert_eq(&row(&encoded, None));
    }

    fn schema(fields: serde_json::Value) -> String {
        json!({ "type": "record", "name": "Order", "fields": fields }).to_string()
    }

    fn refused(fields: serde_json::Value, expected: Expect) {
        expected.assert_eq(&Encoded::avro_text(&schema(fields)).err().unwrap_or_default());
    }

    #[test]
    fn what_cannot_be_columns_is_refused_with_its_place() {
        refused(
            json!([{ "name": "a", "type": ["string", "int"] }]),
            expect![
                "field a: a union of string, int cannot be a column; a union of null and one other type can"
            ],
        );
        refused(json!([{ "name": "a", "type": "null" }]), expect!["field a: null alone cannot be a column"]);
        refused(
            json!([{ "name": "a", "type": { "type": "map", "values": ["null", "int", "long"] } }]),
            expect![
                "field a[]: a union of null, int, long cannot be a column; a union of null and one other type can"
            ],
        );
        refused(
            json!([{ "name": "a", "type": ["null", { "type": "array", "items": "Order" }] }]),
            expect!["field a[]: record Order holds itself, which columns cannot"],
        );
        refused(
            json!([{ "name": "a", "type": "int" }, { "name": "A", "type": "int" }]),
            expect![[r#"there are two fields "A""#]],
        );
        refused(
            json!([{ "name": "a", "type": { "type": "record", "name": "B", "fields": [] } }]),
            expect!["field a: record B has no field"],
        );
        refused(
            json!([{ "name": "a", "type": { "type": "bytes", "logicalType": "decimal", "precision": 39 } }]),
            expect!["field a: decimal(39,0) cannot be a column; one of at most 38 digits can"],
        );
        refused(
            json!([{ "name": "a", "type": "Unknown" }]),
            expect![[r#"Order: field "a": "Unknown" is no type that is known here"#]],
        );
        refused(
            json!([{ "name": "a", "type": [["int"]] }]),
            expect![[r#"Order: field "a": a union has no unions as members"#]],
        );
        refused(json!([{ "name": "a" }]), expect![[r#"Order: field "a" says no type"#]]);
        let check =
            |text: &str, expected: Expect| expected.assert_eq(&Encoded::avro_text(text).err().unwrap());
        check("\"string\"", expect!["string is no record, and has no columns"]);
        check("{", expect!["it is no JSON: EOF while parsing an object at line 1 column 1"]);
        check("", expect!["it is no JSON: EOF while parsing a value at line 1 column 0"]);
        // Twice as many columns with each type, and none of them large.
        let mut fields = vec![json!({ "name": "f0", "type": { "type": "record", "name": "R0", "fields": [
            { "name": "a", "type": "int" }, { "name": "b", "type": "int" }
        ] } })];
        for n in 1..40 {
            let below = format!("R{}", n - 1);
            fields.push(json!({ "name": format!("f{n}"), "type": { "type": "record", "name": format!("R{n}"), "fields": [
                { "name": "a", "type": below }, { "name": "b", "type": below }
            ] } }));
        }
        refused(
            json!(fields),
            expect!["field f11.a.a.b.b.b.a.a.a.b.b.a.a: the schema has more than 10000 columns"],
        );
    }

    /// A value of what was written, read by another schema.
    fn resolved(writer: serde_json::Value, reader: serde_json::Value, value: &str) -> String {
        match Encoded::avro_by(&schema(writer), &schema(reader)) {
            Ok(encoded) => row(&Arc::new(encoded), Some(&hex(value))),
            Err(problem) => format!("refused: {problem}"),
        }
    }

    #[test]
    fn a_writer_that_knows_more_or_less_is_read_all_the_same() {
        let check =
            |writer, reader, value, expected: Expect| expected.assert_eq(&resolved(writer, reader, value));
        // A field that is new, one that is gone, and another order.
        check(
            json!([{ "name": "a", "type": "int" }, { "name": "new", "type": ["null", { "type": "array", "items": "string" }] }, { "name": "b", "type": "string" }]),
            json!([{ "name": "b", "type": "string" }, { "name": "old", "type": ["null", "long"], "default": null }, { "name": "a", "type": "int" }]),
            "0202040261026200 0278",
            expect![[r#"b="x" old=- a=1"#]],
        );
        // Defaults of each type.
        check(
            json!([{ "name": "a", "type": "int" }]),
            json!([
                { "name": "a", "type": "int" },
                { "name": "b", "type": "bytes", "default": "\u{ff}\u{0}" },
                { "name": "l", "type": { "type": "array", "items": "double" }, "default": [1, 2.5] },
                { "name": "m", "type": { "type": "map", "values": "long" }, "default": { "x": -9 } },
                { "name": "r", "type": { "type": "record", "name": "R", "fields": [
                    { "name": "s", "type": "string" }, { "name": "e", "type": { "type": "enum", "name": "E", "symbols": ["X", "Y"] }, "default": "Y" }
                ] }, "default": { "s": "t" } },
                { "name": "u", "type": ["string", "null"], "default": "v" },
                { "name": "f", "type": "float", "default": 0.5 },
                { "name": "t", "type": "boolean", "default": true }
            ]),
            "02",
            expect![[r#"a=1 b=ff00 l=[1.0 2.5] m={"x":-9} r={s="t" e="Y"} u="v" f=0.5 t=true"#]],
        );
        // Wider types, and nullable ones.
        check(
            json!([
                { "name": "a", "type": "int" }, { "name": "b", "type": "int" }, { "name": "c", "type": "long" }, { "name": "d", "type": "float" },
                { "name": "e", "type": "bytes" }, { "name": "f", "type": "string" }, { "name": "g", "type": ["int", "null"] }, { "name": "h", "type": "int" }
            ]),
            json!([
                { "name": "a", "type": "long" }, { "name": "b", "type": "float" }, { "name": "c", "type": "double" }, { "name": "d", "type": "double" },
                { "name": "e", "type": "string" }, { "name": "f", "type": "bytes" }, { "name": "g", "type": ["null", "long"] }, { "name": "h", "type": ["null", "double"] }
            ]),
            "01020400 00003f 0261 0262 0006 08",
            expect![[r#"a=-1 b=1.0 c=2.0 d=0.5 e="a" f=62 g=3 h=4.0"#]],
        );
        // By aliases.
        check(
            json!([{ "name": "old", "type": { "type": "fixed", "name": "x.F", "size": 2 } }]),
            json!([{ "name": "new", "aliases": ["old"], "type": { "type": "fixed", "name": "G", "aliases": ["x.F"], "size": 2 } }]),
            "0102",
            expect!["new=0102"],
        );
        // Symbols that are not known go to the default.
        let symbols =
            |name: &str, symbols: &[&str]| json!({ "type": "enum", "name": name, "symbols": symbols });
        let mut known = symbols("E", &["A", "Z"]);
        known["default"] = json!("Z");
        check(
            json!([{ "name": "e", "type": symbols("E", &["N", "A"]) }]),
            json!([{ "name": "e", "type": known }]),
            "00",
            expect![[r#"e="Z""#]],
        );
        check(
            json!([{ "name": "e", "type": symbols("E", &["N", "A"]) }]),
            json!([{ "name": "e", "type": symbols("E", &["A"]) }]),
            "00",
            expect![[r#"e: "N" is no symbol of enum E, which has no default"#]],
        );
        // Moments in the writer's unit, days, and digits.
        let moment = |unit: &str| json!({ "type": "long", "logicalType": format!("timestamp-{unit}") });
        check(
            json!([{ "name": "t", "type": moment("millis") }]),
            json!([{ "name": "t", "type": moment("micros") }]),
            "02",
            expect!["t=1970-01-01T00:00:00.001Z"],
        );
        check(
            json!([{ "name": "t", "type": moment("micros") }]),
            json!([{ "name": "t", "type": moment("millis") }]),
            "02",
            expect!["t=1970-01-01T00:00:00.000001Z"],
        );
        check(
            json!([{ "name": "t", "type": "long" }]),
            json!([{ "name": "t", "type": moment("millis") }]),
            "02",
            expect!["t=1970-01-01T00:00:00.001Z"],
        );
        check(
            json!([{ "name": "t", "type": moment("millis") }]),
            json!([{ "name": "t", "type": "long" }]),
            "02",
            expect!["t=1"],
        );
        let digits = |precision: u8, scale: u8| json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale });
        check(
            json!([{ "name": "d", "type": digits(9, 1) }]),
            json!([{ "name": "d", "type": digits(2, 1) }]),
            "0263",
            expect!["d=9.9"],
        );
        check(
            json!([{ "name": "d", "type": digits(9, 1) }]),
            json!([{ "name": "d", "type": digits(2, 1) }]),
            "0264",
            expect!["d: a number of 1 bytes is no decimal(2,1)"],
        );
        check(
            json!([{ "name": "u", "type": { "type": "fixed", "name": "U", "size": 16 } }]),
            json!([{ "name": "u", "type": { "type": "fixed", "name": "U", "size": 16, "logicalType": "uuid" } }]),
            "123456789abcdef0123456789abcdef0",
            expect![[r#"u="12345678-9abc-def0-1234-56789abcdef0""#]],
        );
        // A union of which one member fits.
        let union = json!([{ "name": "u", "type": ["int", "string", "null"] }]);
        check(union.clone(), json!([{ "name": "u", "type": ["null", "long"] }]), "0002", expect!["u=1"]);
        check(
            union.clone(),
            json!([{ "name": "u", "type": ["null", "long"] }]),
            "020261",
            expect!["u: string was written, which is no long"],
        );
        check(
            union,
            json!([{ "name": "u", "type": "long" }]),
            "04",
            expect!["u: null was written, which is no long"],
        );
    }

    #[test]
    fn what_does_not_resolve_is_refused_and_nothing_is_rounded() {
        let of = |from: &str, to: &str| {
            (json!([{ "name": "a", "type": from }]), json!([{ "name": "a", "type": to }]))
        };
        let mut told = String::new();
        for (from, to, value) in [
            ("long", "int", "02"),
            ("string", "int", "0261"),
            ("double", "float", "0000000000000000"),
            ("int", "boolean", "02"),
            ("int", "float", "82808010"),
            ("long", "double", "82808080808080 20"),
            ("bytes", "string", "02ff"),
        ] {
            let (writer, reader) = of(from, to);
            told += &format!("{from} to {to}: {}\n", resolved(writer, reader, value));
        }
        let (writer, _) = of("int", "int");
        let none = json!([{ "name": "b", "type": ["null", "int"] }]);
        told += &format!("without a default: {}\n", resolved(writer.clone(), none, "02"));
        let bad = json!([{ "name": "b", "type": ["null", "int"], "default": "x" }]);
        told += &format!("with one that is none: {}\n", resolved(writer.clone(), bad, "02"));
        let other = schema(json!([{ "name": "a", "type": "int" }])).replace("Order", "Refund");
        told += &format!("another record: {}\n", Encoded::avro_by(&other, &schema(writer)).unwrap_err());
        let digits = |scale: u8| json!([{ "name": "d", "type": { "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale } }]);
        told += &format!("another scale: {}\n", resolved(digits(1), digits(2), "0264"));
        expect![[r#"
            long to int: refused: field a: long was written, which is no int
            string to int: refused: field a: string was written, which is no int
            double to float: refused: field a: double was written, which is no float
            int to boolean: refused: field a: int was written, which is no boolean
            int to float: a: 16777217 would be rounded as a float of 32 bits
            long to double: a: 9007199254740993 would be rounded as a float of 64 bits
            bytes to string: a: the text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
            without a default: refused: field b: the writer has no such field, and it has no default
            with one that is none: refused: field b: the default "x" is no a union of null, int
            another record: record Refund was written, and record Order has neither that name nor such an alias
            another scale: refused: field d: bytes as decimal(9,1) was written, which is no bytes as decimal(9,2)
        "#]].assert_eq(&told);
    }

    #[test]
    fn what_is_passed_over_is_bounded_too() {
        let check = |ignored: serde_json::Value, value: &[u8], expected: Expect| {
            let writer = schema(json!([{ "name": "x", "type": ignored }, { "name": "a", "type": "int" }]));
            let reader = schema(json!([{ "name": "a", "type": "int" }]));
            let encoded = Arc::new(Encoded::avro_by(&writer, &reader).unwrap());
            expected.assert_eq(&row(&encoded, Some(value)));
        };
        let chain = json!({ "type": "record", "name": "Node", "fields": [{ "name": "next", "type": ["null", "Node"] }] });
        check(chain.clone(), &[&[2; 100][..], &[0, 14]].concat(), expect!["a=7"]);
        check(chain, &[2; 100_000], expect!["-: values are nested more than 256 deep"]);
        let nulls = json!({ "type": "array", "items": "null" });
        check(nulls.clone(), &hex("80c00000 0e"), expect!["a=7"]);
        check(
            nulls,
            &hex("feffffffffffffffff01"),
            expect!["-: a value has at most 4096 items that take no byte"],
        );
        check(json!({ "type": "map", "values": "int" }), &hex("0106026102000e"), expect!["a=7"]);
        check(
            json!({ "type": "record", "name": "Self", "fields": [{ "name": "s", "type": "Self" }] }),
            &[],
            expect!["-: values are nested more than 256 deep"],
        );
        let mut doubled = json!({ "type": "record", "name": "R0", "fields": [] });
        for n in 1..40 {
            doubled = json!({ "type": "record", "name": format!("R{n}"), "fields": [
                { "name": "a", "type": doubled }, { "name": "b", "type": format!("R{}", n - 1) }
            ] });
        }
        check(doubled, &[], expect!["-: a value has at most 4096 items that take no byte"]);
    }
}
