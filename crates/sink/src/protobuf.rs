//! Protobuf messages straight into columns.
//!
//! After the wire format of protobuf.dev, "Encoding": fields come in any order and any number of times, the last one counts, and
//! pieces of one message are one message. So a message is gone through once to see where its fields are, and then column by column.
//! Fields that are not known are passed over; nothing else is, and nothing is rounded or taken by the claim of a length.

use std::collections::{BTreeMap, HashMap};

use crate::column::{Column, ListColumn, MapColumn, StructColumn};
use crate::fault::Fault;

/// How deep groups may be nested that are passed over.
const GROUPS_MAX: usize = 64;
/// What a value may take in columns beyond its own bytes: an empty message in a list takes a value in every column.
pub(crate) const EXTRA_MAX: usize = 64 << 20;
/// What a value takes in a column, about.
pub(crate) const COLUMN_BYTES: usize = 8;

/// A message, whose fields are columns in their order.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    /// Numbers of fields, in order, and where they are.
    numbers: Vec<(u32, usize)>,
    /// Columns, those within others included.
    width: usize,
}

/// A field, and how it is read.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) form: Form,
    /// The group of fields of which one alone is there.
    pub(crate) oneof: Option<usize>,
}

#[derive(Debug)]
pub(crate) enum Form {
    One(Read, Absent),
    Many(Read),
    /// Entries, of a key and a value.
    Map(Box<Message>),
}

/// What is there when the field does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    Null,
    Zero,
    Refused,
}

/// How a value of a field is written, and what it becomes.
#[derive(Debug)]
pub(crate) enum Read {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    /// By the names of its values; one that has none is its number.
    Enum(BTreeMap<i32, String>),
    Timestamp(Box<Message>),
    Message(Box<Message>),
}

/// Where a field of the message at hand is.
#[derive(Debug, Clone)]
enum Slot<'a> {
    None,
    Bits(u64),
    Bytes(&'a [u8]),
    /// Pieces of one message, or entries of one map.
    Pieces(Vec<&'a [u8]>),
    /// Values of a list, which are in their column already.
    Count(usize),
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LEN: u32 = 2;
const GROUP_START: u32 = 3;
const GROUP_END: u32 = 4;
const FIXED32: u32 = 5;

impl Message {
    pub(crate) fn new(name: String, fields: Vec<Field>) -> Self {
        let mut numbers: Vec<_> = fields.iter().enumerate().map(|(at, field)| (field.number, at)).collect();
        numbers.sort_unstable();
        let width = fields.iter().map(|field| 1 + field.form.width()).sum();
        Self { name, fields, numbers, width }
    }

    /// Appends a value. Gives what it takes beyond its own bytes.
    pub(crate) fn append(&self, value: &[u8], columns: &mut [Column]) -> Result<usize, Fault> {
        let mut work = Work { slots: Vec::with_capacity(self.fields.len()), extra: 0 };
        work.message(self, &[value], columns)?;
        Ok(work.extra)
    }

    fn find(&self, number: u32, guess: usize) -> Option<usize> {
        match self.fields.get(guess) {
            // Most are written in the order of their numbers, and declared so.
            Some(field) if field.number == number => Some(guess),
            _ => {
                let found = self.numbers.binary_search_by_key(&number, |(number, _)| *number);
                found.ok().map(|at| self.numbers[at].1)
            }
        }
    }
}

impl Form {
    fn width(&self) -> usize {
        match self {
            Self::One(Read::Message(message), _)
            | Self::Many(Read::Message(message))
            | Self::Map(message) => message.width,
            _ => 0,
        }
    }
}

impl Read {
    fn wire(&self) -> u32 {
        match self {
            Self::Int32 | Self::Int64 | Self::Uint32 | Self::Uint64 | Self::Sint32 | Self::Sint64 => VARINT,
            Self::Bool | Self::Enum(_) => VARINT,
            Self::Double | Self::Fixed64 | Self::Sfixed64 => FIXED64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => FIXED32,
            Self::String | Self::Bytes | Self::Timestamp(_) | Self::Message(_) => LEN,
        }
    }
}

/// What is left of a message.
struct Input<'a> {
    bytes: &'a [u8],
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

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for (at, &byte) in self.bytes.iter().enumerate().take(10) {
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.bytes = &self.bytes[at + 1..];
                return Ok(value);
            }
        }
        Err(Fault::new(match self.bytes.len() {
            0..10 => "the value ends within a number",
            _ => "a number has more than 64 bits",
        }))
    }

    fn len(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.varint()?;
        let count = usize::try_from(len).map_err(|_| Fault::new(format!("{len} is no length")))?;
        self.take(count)
    }

    /// A field's number, and how its value is written.
    fn tag(&mut self) -> Result<(u32, u32), Fault> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| Fault::new(format!("{} is no number of a field", tag >> 3)))?;
        Ok((number, (tag & 7) as u32))
    }

    /// The bits of a number that is written so.
    fn bits(&mut self, wire: u32) -> Result<u64, Fault> {
        Ok(match wire {
            VARINT => self.varint()?,
            FIXED64 => u64::from_le_bytes(self.array()?),
            _ => u32::from_le_bytes(self.array()?).into(),
        })
    }

    /// Passes over a value of a field that is not known.
    fn skip(&mut self, number: u32, wire: u32, depth: usize) -> Result<(), Fault> {
        match wire {
            VARINT => drop(self.varint()?),
            FIXED64 => drop(self.take(8)?),
            LEN => drop(self.len()?),
            FIXED32 => drop(self.take(4)?),
            GROUP_START if depth < GROUPS_MAX => loop {
                match self.tag()? {
                    (end, GROUP_END) if end == number => break,
                    (inner, wire) => self.skip(inner, wire, depth + 1)?,
                }
            },
            GROUP_START => return Err(Fault::new(format!("groups are nested more than {GROUPS_MAX} deep"))),
            GROUP_END => return Err(Fault::new(format!("group {number} ends, and did not begin"))),
            other => return Err(Fault::new(format!("{other} is no way to write field {number}"))),
        }
        Ok(())
    }
}

/// One value on its way into columns.
struct Work<'a> {
    /// Those of the message at hand, behind those of the ones that it is in.
    slots: Vec<Slot<'a>>,
    extra: usize,
}

impl<'a> Work<'a> {
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.extra += bytes;
        match self.extra > EXTRA_MAX {
            true => Err(Fault::new("the value would take far more in the table than it has bytes")),
            false => Ok(()),
        }
    }

    fn message(
        &mut self,
        message: &Message,
        pieces: &[&'a [u8]],
        columns: &mut [Column],
    ) -> Result<(), Fault> {
        let base = self.slots.len();
        self.scan(message, pieces, columns)?;
        for (at, (field, column)) in message.fields.iter().zip(columns).enumerate() {
            let slot = std::mem::replace(&mut self.slots[base + at], Slot::None);
            self.field(field, slot, column).map_err(|fault| fault.in_field(&field.name))?;
        }
        self.slots.truncate(base);
        Ok(())
    }

    /// Finds the fields of a message, one slot for each. Values of lists go to their columns at once.
    fn scan(&mut self, message: &Message, pieces: &[&'a [u8]], columns: &mut [Column]) -> Result<(), Fault> {
        let base = self.slots.len();
        self.slots.resize(base + message.fields.len(), Slot::None);
        let mut guess = 0;
        for piece in pieces {
            let mut input = Input { bytes: piece };
            while !input.bytes.is_empty() {
                let (number, wire) = input.tag()?;
                let Some(at) = message.find(number, guess) else {
                    input.skip(number, wire, 0)?;
                    continue;
                };
                guess = at + 1;
                let field = &message.fields[at];
                let found = match &field.form {
                    Form::One(read, _) => self.one(message, base, at, read, wire, &mut input),
                    Form::Many(read) => {
                        // Values of another field may lie between, which go elsewhere.
                        self.many(base + at, read, wire, &mut input, &mut columns[at])
                    }
                    Form::Map(_) => self.piece(base + at, wire, &mut input),
                };
                found.map_err(|fault| fault.in_field(&field.name))?;
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        message: &Message,
        base: usize,
        at: usize,
        read: &Read,
        wire: u32,
        input: &mut Input<'a>,
    ) -> Result<(), Fault> {
        if let Some(oneof) = message.fields[at].oneof {
            for (other, field) in message.fields.iter().enumerate() {
                if other != at && field.oneof == Some(oneof) {
                    self.slots[base + other] = Slot::None;
                }
            }
        }
        match read {
            Read::Message(_) | Read::Timestamp(_) => return self.piece(base + at, wire, input),
            _ if wire != read.wire() => return Err(written(wire)),
            Read::String | Read::Bytes => self.slots[base + at] = Slot::Bytes(input.len()?),
            _ => self.slots[base + at] = Slot::Bits(input.bits(wire)?),
        }
        Ok(())
    }

    /// One more of the pieces of a message, or of the entries of a map.
    fn piece(&mut self, slot: usize, wire: u32, input: &mut Input<'a>) -> Result<(), Fault> {
        if wire != LEN {
            return Err(written(wire));
        }
        let piece = input.len()?;
        match &mut self.slots[slot] {
            Slot::Pieces(pieces) => pieces.push(piece),
            slot @ Slot::Bytes(_) => {
                let Slot::Bytes(first) = *slot else { unreachable!("it was just that") };
                *slot = Slot::Pieces(vec![first, piece]);
            }
            slot => *slot = Slot::Bytes(piece),
        }
        Ok(())
    }

    fn many(
        &mut self,
        slot: usize,
        read: &Read,
        wire: u32,
        input: &mut Input<'a>,
        column: &mut Column,
    ) -> Result<(), Fault> {
        let Column::List(ListColumn { items, .. }) = column else { unreachable!("{MADE_FOR_IT}") };
        let mut count = match &self.slots[slot] {
            Slot::Count(count) => *count,
            _ => 0,
        };
        match (read.wire(), wire) {
            (LEN, LEN) => {
                let bytes = input.len()?;
                let appended = match read {
                    Read::Message(message) => self
                        .charge(message.width * COLUMN_BYTES)
                        .and_then(|()| self.value(read, &Slot::Bytes(bytes), items)),
                    _ => self.value(read, &Slot::Bytes(bytes), items),
                };
                appended.map_err(|fault| fault.at_index(count))?;
                count += 1;
            }
            // Packed.
            (one, LEN) => {
                let mut input = Input { bytes: input.len()? };
                while !input.bytes.is_empty() {
                    let appended =
                        input.bits(one).and_then(|bits| self.value(read, &Slot::Bits(bits), items));
                    appended.map_err(|fault| fault.at_index(count))?;
                    count += 1;
                }
            }
            (one, wire) if one == wire => {
                let appended = input.bits(wire).and_then(|bits| self.value(read, &Slot::Bits(bits), items));
                appended.map_err(|fault| fault.at_index(count))?;
                count += 1;
            }
            _ => return Err(written(wire)),
        }
        self.slots[slot] = Slot::Count(count);
        Ok(())
    }

    /// Appends what was found of a field, or what is there instead.
    fn field(&mut self, field: &Field, slot: Slot<'a>, column: &mut Column) -> Result<(), Fault> {
        match (&field.form, slot, column) {
            (Form::One(_, Absent::Null), Slot::None, column) => column.null(),
            (Form::One(_, Absent::Refused), Slot::None, _) => {
                return Err(Fault::new("the field is required, and missing"));
            }
            (Form::One(read, _), slot, column) => self.value(read, &slot, column)?,
            (Form::Many(_), Slot::Count(count), Column::List(column)) => column.push(count),
            (Form::Many(_), _, Column::List(column)) => column.push(0),
            (Form::Map(entry), slot, Column::Map(column)) => match slot {
                Slot::Bytes(one) => self.map(entry, &[one], column)?,
                Slot::Pieces(entries) => self.map(entry, &entries, column)?,
                _ => self.map(entry, &[], column)?,
            },
            _ => unreachable!("{MADE_FOR_IT}"),
        }
        Ok(())
    }

    /// Of entries with one key the last one counts.
    fn map(&mut self, entry: &Message, entries: &[&'a [u8]], column: &mut MapColumn) -> Result<(), Fault> {
        let (Form::One(of_key, _), Form::One(of_value, _)) = (&entry.fields[0].form, &entry.fields[1].form)
        else {
            unreachable!("{MADE_FOR_IT}")
        };
        let mut found: Vec<(String, Slot<'a>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (at, bytes) in entries.iter().enumerate() {
            let base = self.slots.len();
            self.scan(entry, &[bytes], &mut []).map_err(|fault| fault.at_index(at))?;
            let value = std::mem::replace(&mut self.slots[base + 1], Slot::None);
            let key = of_key.key(&self.slots[base]).map_err(|fault| fault.at_index(at))?;
            self.slots.truncate(base);
            match places.get(&key) {
                Some(&place) => found[place].1 = value,
                None => {
                    places.insert(key.clone(), found.len());
                    found.push((key, value));
                }
            }
        }
        let MapColumn { keys, values, .. } = column;
        for (key, value) in &found {
            if let Read::Message(message) = of_value {
                self.charge(message.width * COLUMN_BYTES)?;
            }
            keys.append_value(key);
            self.value(of_value, value, values).map_err(|fault| fault.at_key(key))?;
        }
        column.push(found.len());
        Ok(())
    }

    /// Appends a value to a column of its kind; nothing is zero.
    fn value(&mut self, read: &Read, slot: &Slot<'a>, column: &mut Column) -> Result<(), Fault> {
        let bits = match slot {
            Slot::Bits(bits) => *bits,
            _ => 0,
        };
        let bytes = match slot {
            Slot::Bytes(bytes) => bytes,
            _ => &[][..],
        };
        match (read, column) {
            (Read::Double, Column::Float64(column)) => column.append_value(f64::from_bits(bits)),
            (Read::Float, Column::Float32(column)) => column.append_value(f32::from_bits(low(bits))),
            (Read::Int32, Column::Int32(column)) => column.append_value(int(bits.cast_signed())?),
            (Read::Int64 | Read::Sfixed64, Column::Int64(column)) => column.append_value(bits.cast_signed()),
            (Read::Uint32 | Read::Fixed32, Column::Int64(column)) => {
                let value = u32::try_from(bits).map_err(|_| no_int(bits))?;
                column.append_value(value.into());
            }
            (Read::Uint64 | Read::Fixed64, Column::Decimal(column)) => column.append_value(bits.into()),
            (Read::Sint32, Column::Int32(column)) => column.append_value(int(unzigzag(bits))?),
            (Read::Sint64, Column::Int64(column)) => column.append_value(unzigzag(bits)),
            (Read::Sfixed32, Column::Int32(column)) => column.append_value(low(bits).cast_signed()),
            (Read::Bool, Column::Bool(column)) => column.append_value(bits != 0),
            (Read::String, Column::String(column)) => column.append_value(text(bytes)?),
            (Read::Bytes, Column::Binary(column)) => column.append_value(bytes),
            (Read::Enum(names), Column::String(column)) => {
                let number = int(bits.cast_signed())?;
                match names.get(&number) {
                    Some(name) => {
                        self.charge(name.len())?;
                        column.append_value(name);
                    }
                    None => column.append_value(number.to_string()),
                }
            }
            (Read::Timestamp(message), Column::Timestamp(column)) => {
                column.append_value(self.pieces(slot, |work, pieces| work.micros(message, pieces))?);
            }
            (Read::Message(message), Column::Struct(column)) => {
                let StructColumn { columns, .. } = column;
                self.pieces(slot, |work, pieces| work.message(message, pieces, columns))?;
                column.push();
            }
            _ => unreachable!("{MADE_FOR_IT}"),
        }
        Ok(())
    }

    fn pieces<T>(
        &mut self,
        slot: &Slot<'a>,
        read: impl FnOnce(&mut Self, &[&'a [u8]]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match slot {
            Slot::Bytes(one) => read(self, &[one]),
            Slot::Pieces(pieces) => read(self, pieces),
            _ => read(self, &[]),
        }
    }

    /// Seconds and nanoseconds, in microseconds.
    fn micros(&mut self, message: &Message, pieces: &[&'a [u8]]) -> Result<i64, Fault> {
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let base = self.slots.len();
        self.scan(message, pieces, &mut [])?;
        let bits = |slot: &Slot<'_>| match slot {
            Slot::Bits(bits) => bits.cast_signed(),
            _ => 0,
        };
        let (seconds, nanos) = (bits(&self.slots[base]), bits(&self.slots[base + 1]));
        self.slots.truncate(base);
        if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
            return Err(Fault::new(format!("{seconds} seconds and {nanos} nanoseconds are no time")));
        }
        match nanos % 1000 {
            0 => Ok(seconds * 1_000_000 + nanos / 1000),
            _ => Err(Fault::new(format!(
                "{nanos} nanoseconds would be rounded: a table's times have microseconds"
            ))),
        }
    }
}

const MADE_FOR_IT: &str = "columns are made for what is read";

impl Read {
    /// A key of a map, as text.
    fn key(&self, slot: &Slot<'_>) -> Result<String, Fault> {
        let bits = match slot {
            Slot::Bits(bits) => *bits,
            _ => 0,
        };
        Ok(match self {
            Self::String => match slot {
                Slot::Bytes(bytes) => text(bytes)?.to_owned(),
                _ => String::new(),
            },
            Self::Bool => (bits != 0).to_string(),
            Self::Int32 => int(bits.cast_signed())?.to_string(),
            Self::Sint32 => int(unzigzag(bits))?.to_string(),
            Self::Sfixed32 => low(bits).cast_signed().to_string(),
            Self::Int64 | Self::Sfixed64 => bits.cast_signed().to_string(),
            Self::Sint64 => unzigzag(bits).to_string(),
            Self::Uint32 => u32::try_from(bits).map_err(|_| no_int(bits))?.to_string(),
            _ => bits.to_string(),
        })
    }
}

/// A small number of a frame, from its beginning.
pub(crate) fn index(bytes: &mut &[u8]) -> Result<usize, Fault> {
    let mut input = Input { bytes };
    let number = unzigzag(input.varint()?);
    *bytes = input.bytes;
    usize::try_from(number).map_err(|_| Fault::new(format!("{number} is no place of a message")))
}

fn written(wire: u32) -> Fault {
    let how = match wire {
        VARINT => "a number of any length",
        FIXED64 => "a number of 8 bytes",
        LEN => "bytes",
        FIXED32 => "a number of 4 bytes",
        GROUP_START | GROUP_END => "a group",
        _ => "nothing that there is",
    };
    Fault::new(format!("it is written as {how}, which its type is not"))
}

fn low(bits: u64) -> u32 {
    bits as u32
}

fn unzigzag(bits: u64) -> i64 {
    (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()
}

fn no_int(value: impl std::fmt::Display) -> Fault {
    Fault::new(format!("{value} is not a whole number of 32 bits"))
}

fn int(value: i64) -> Result<i32, Fault> {
    i32::try_from(value).map_err(|_| no_int(value))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| Fault::new(format!("the text is not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};

    use crate::encoded::Encoded;
    use crate::testing::{columns, hex, record, row};

    const ORDER: &str = include_str!("../tests/data/order.proto");
    // Of Google's own implementation.
    const FULL: &str = "08f9ffffffffffffffff0112075ac3bc72696368180120ffffffffffffffffff012a0c08c0ddc8b10610e8d1b5ee0132070805150000204032003a0c0a016111000000000000f83f3a0c0a0162110000000000000000420f08fcffffffffffffffff011202081252050d070000005a0d01ffffffffffffffffff01ac0260016a0200ff71000000000000f83f7d0000003f8001ffffffff0f8801ffffffffffffffffff019101feffffffffffffff9d01fbffffffa101faffffffffffffff";

    fn order() -> Arc<Encoded> {
        Arc::new(Encoded::protobuf_text(ORDER, Some("shop.Order")).unwrap())
    }

    fn small(fields: &str) -> Arc<Encoded> {
        let text = format!("syntax = \"proto3\"; message M {{ {fields} }}");
        Arc::new(Encoded::protobuf_text(&text, None).unwrap())
    }

    #[test]
    fn values_of_every_type_become_columns() {
        expect![[r#"id=-7 city="Zürich" state="PAID" total=18446744073709551615 at=2024-05-01T12:00:00.500001Z lines=[{sku=-3 weight=2.5} {sku=0 weight=-}] counts={"a":1.5 "b":0.0} by_number={"-4":{sku=9 weight=-}} card=- cash={notes=7} numbers=[1 -1 300] paid=true raw=00ff price=1.5 weight=0.5 unsigned=4294967295 zigzag=-9223372036854775808 fixed=18446744073709551614 signed=-5 longer=-6"#]].assert_eq(&row(&order(), Some(&hex(FULL))));
        expect![[r#"id=0 city=- state="NEW" total=0 at=- lines=[] counts={} by_number={} card=- cash=- numbers=[] paid=false raw= price=0.0 weight=0.0 unsigned=0 zigzag=0 fixed=0 signed=0 longer=0"#]].assert_eq(&row(&order(), Some(&[])));
        expect!["id: the record has no value, and the field is required"].assert_eq(&row(&order(), None));
    }

    #[test]
    fn fields_come_in_any_order_and_the_last_one_counts() {
        let encoded = small(
            "int32 a = 1; repeated int32 l = 2; message N { int32 x = 1; repeated string y = 2; } N n = 3; map<string, N> m = 4; oneof o { string s = 5; N t = 6; }",
        );
        let check = |value: &str, expected: Expect| expected.assert_eq(&row(&encoded, Some(&hex(value))));
        check("0801 0802", expect!["a=2 l=[] n=- m={} s=- t=-"]);
        // Items among others, packed and not.
        check("1001 0801 1202 0203 1004", expect!["a=1 l=[1 2 3 4] n=- m={} s=- t=-"]);
        // Pieces of one message.
        check(
            "1a02 0801 1a03 120161 1a02 0802 1a03 120162",
            expect![[r#"a=0 l=[] n={x=2 y=["a" "b"]} m={} s=- t=-"#]],
        );
        check(
            "2207 0a0161 12020801 2203 0a0162 2207 0a0161 12020802",
            expect![[r#"a=0 l=[] n=- m={"a":{x=2 y=[]} "b":{x=0 y=[]}} s=- t=-"#]],
        );
        check("2200", expect![[r#"a=0 l=[] n=- m={"":{x=0 y=[]}} s=- t=-"#]]);
        check("2a0161 3202 0801", expect!["a=0 l=[] n=- m={} s=- t={x=1 y=[]}"]);
        check("3202 0801 2a0161", expect![[r#"a=0 l=[] n=- m={} s="a" t=-"#]]);
        check("3202 0801 3203 120161", expect![[r#"a=0 l=[] n=- m={} s=- t={x=1 y=["a"]}"#]]);
        check("3202 0801 2a0161 3203 120161", expect![[r#"a=0 l=[] n=- m={} s=- t={x=0 y=["a"]}"#]]);
        // What is not known, in each way that there is.
        check(
            "3801 39 0102030405060708 3a0161 3b 0801 3b 3c 3c 3d 01020304 0807",
            expect!["a=7 l=[] n=- m={} s=- t=-"],
        );
    }

    #[test]
    fn what_is_no_value_says_where_and_leaves_no_row() {
        let encoded = order();
        let mut told = String::new();
        let mut check = |what: &str, value: &str| {
            let value = hex(value);
            let mut columns = columns(Arc::clone(&encoded));
            columns.append(&record(Some(&hex(FULL)))).unwrap();
            columns.append(&record(Some(&value))).unwrap_err();
            assert_eq!(columns.finish().num_rows(), 1);
            told += &format!("{what}: {}\n", row(&encoded, Some(&value)));
        };
        check("half a tag", "80");
        check("a tag alone", "08");
        check("a number of 65 bits", "08ffffffffffffffffff02");
        check("field 0", "0001");
        check("field 2^29", "8080808010");
        check("a way of writing that is none", "a606");
        check("another way of writing", "0a00");
        check("a text as a number", "1001");
        check("a text of 2^63 bytes", "12ffffffffffffffff7f");
        check("a text that is none", "1201ff");
        check("an unsigned number of 33 bits", "80018080808010");
        check("an int32 of 33 bits", "5a058080808010");
        check("a symbol of 33 bits", "188080808010");
        check("nanoseconds", "2a021001");
        check("too many nanoseconds", "2a06108094ebdc03");
        check("after the year 9999", "2a0708808080808008");
        check("an item", "3200 3203 08ffff");
        check("the weight of an item", "3202 1503");
        check("the value of a key", "4206 08071202 0880");
        check("a key that is no text", "3a03 0a01ff");
        check("half an item of a list", "5a01 80");
        check("a group that does not end", "a306");
        check("a group that does not begin", "a406");
        check("groups in groups", &"a306".repeat(100));
        expect![[r#"
            half a tag: -: the value ends within a number
            a tag alone: id: the value ends within a number
            a number of 65 bits: id: a number has more than 64 bits
            field 0: -: 0 is no number of a field
            field 2^29: -: 536870912 is no number of a field
            a way of writing that is none: -: 6 is no way to write field 100
            another way of writing: id: it is written as bytes, which its type is not
            a text as a number: city: it is written as a number of any length, which its type is not
            a text of 2^63 bytes: city: 9223372036854775807 bytes are announced, and 0 are left
            a text that is none: city: the text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
            an unsigned number of 33 bits: unsigned: 4294967296 is not a whole number of 32 bits
            an int32 of 33 bits: numbers[0]: 4294967296 is not a whole number of 32 bits
            a symbol of 33 bits: state: 4294967296 is not a whole number of 32 bits
            nanoseconds: at: 1 nanoseconds would be rounded: a table's times have microseconds
            too many nanoseconds: at: 0 seconds and 1000000000 nanoseconds are no time
            after the year 9999: at: 274877906944 seconds and 0 nanoseconds are no time
            an item: lines[1].sku: the value ends within a number
            the weight of an item: lines[0].weight: 4 bytes are announced, and 1 are left
            the value of a key: by_number["7"].sku: the value ends within a number
            a key that is no text: counts[0]: the text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
            half an item of a list: numbers[0]: the value ends within a number
            a group that does not end: -: the value ends within a number
            a group that does not begin: -: group 100 ends, and did not begin
            groups in groups: -: groups are nested more than 64 deep
        "#]].assert_eq(&told);
    }

    #[test]
    fn a_message_does_not_take_far_more_than_it_has_bytes() {
        let names: String = (1..1000).map(|n| format!("int64 f{n} = {n};")).collect();
        let encoded = small(&format!("message Wide {{ {names} }} repeated Wide w = 1;"));
        let value = [0x0a, 0].repeat(20_000);
        expect!["w[8397]: the value would take far more in the table than it has bytes"]
            .assert_eq(&row(&encoded, Some(&value)));
    }

    #[test]
    fn what_cannot_be_columns_is_refused_with_its_place() {
        let check = |text: &str, message: Option<&str>, expected: Expect| {
            expected.assert_eq(&Encoded::protobuf_text(text, message).err().unwrap_or_default());
        };
        check(
            ORDER,
            None,
            expect!["it has several messages, and message says which: shop.Order, shop.Refund"],
        );
        check(
            ORDER,
            Some("shop.Ordre"),
            expect![[r#"there is no message "shop.Ordre" in it; there are shop.Order, shop.Refund"#]],
        );
        check("", None, expect!["it has no message"]);
        check("message", None, expect!["expected an identifier, but reached end of file"]);
        check(
            "syntax = \"proto3\"; import \"other.proto\"; message M { Other a = 1; }",
            None,
            expect!["value.proto:1:20: import 'other.proto' not found"],
        );
        let proto3 = |text: &str, expected: Expect| {
            check(&format!("syntax = \"proto3\"; {text}"), Some("M"), expected)
        };
        proto3(
            "message M { int32 a = 1; int32 A = 2; }",
            expect!["value.proto:1:51: camel-case name of field 'a' conflicts with field 'A'"],
        );
        proto3(
            "message M { int32 a = 1; repeated M b = 2; }",
            expect!["field b[]: message M holds itself, which columns cannot"],
        );
        proto3(
            "message M { map<string, E> b = 2; } message E {}",
            expect!["field b[]: message E has no field"],
        );
        proto3(
            "import \"google/protobuf/struct.proto\"; message M { google.protobuf.Struct s = 1; }",
            expect![
                "field s.fields[].struct_value: message google.protobuf.Struct holds itself, which columns cannot"
            ],
        );
        check(
            "syntax = \"proto2\"; message M { repeated group G = 1 { optional int32 a = 1; } }",
            None,
            expect!["field g[]: a group cannot be a column; a message can"],
        );
        let mut chain = "message M { M0 m = 1; } message M40 { int32 a = 1; }".to_owned();
        for n in 0..40 {
            chain += &format!("message M{n} {{ M{0} a = 1; M{0} b = 2; }}", n + 1);
        }
        proto3(
            &chain,
            expect![
                "field m.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.b.b.a.a.b.b.b.b.b.a.b: the schema has more than 10000 columns"
            ],
        );
    }

    #[test]
    fn fields_of_proto2_are_there_or_null_or_required() {
        let text = "syntax = \"proto2\"; message M { required int32 a = 1; optional int32 b = 2 [default = 7]; repeated sint32 c = 3 [packed = true]; }";
        let encoded = Arc::new(Encoded::protobuf_text(text, None).unwrap());
        expect!["a=1 b=- c=[-1]"].assert_eq(&row(&encoded, Some(&hex("0801 1a01 01"))));
        expect!["a: the field is required, and missing"].assert_eq(&row(&encoded, Some(&hex("1001"))));
    }
}
