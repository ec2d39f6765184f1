//! Random wire bytes of a message, canonical: what any correct codec reads and writes back to the byte.
//!
//! A second reading of the schema files, which shares no code with the generator or the encoder.

use super::random::Random;
use super::schema::{Field, Schema, Struct, Type};

/// The bytes of the struct `name` in `version`.
pub fn message(schema: &Schema, name: &str, version: i16, random: &mut Random) -> Vec<u8> {
    let mut sample = Sample { schema, version, flexible: schema.is_flexible(version), random: Some(random) };
    let mut out = Vec::new();
    sample.structure(schema.find(name), &mut out);
    out
}

struct Sample<'a> {
    schema: &'a Schema,
    version: i16,
    flexible: bool,
    /// Without one, every field gets its default.
    random: Option<&'a mut Random>,
}

impl Sample<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.random.as_mut().map_or(0, |random| random.below(bound))
    }

    fn structure(&mut self, structure: &Struct, out: &mut Vec<u8>) {
        let version = self.version;
        let present: Vec<&Field> =
            structure.fields.iter().filter(|field| field.versions.contains(version)).collect();
        for field in present.iter().filter(|field| field.tag.is_none()) {
            self.field(field, out);
        }
        if !self.flexible {
            return;
        }
        let mut tagged: Vec<(u32, Vec<u8>)> = Vec::new();
        for field in present {
            let Some(tag) = field.tag else { continue };
            let mut value = Vec::new();
            self.field(field, &mut value);
            if value != self.default_bytes(field) {
                tagged.push((tag, value));
            }
        }
        tagged.sort();
        varint(tagged.len(), out);
        for (tag, value) in tagged {
            varint(tag as usize, out);
            varint(value.len(), out);
            out.extend(value);
        }
    }

    fn default_bytes(&self, field: &Field) -> Vec<u8> {
        let mut out = Vec::new();
        let mut plain =
            Sample { schema: self.schema, version: self.version, flexible: self.flexible, random: None };
        plain.field(field, &mut out);
        out
    }

    fn field(&mut self, field: &Field, out: &mut Vec<u8>) {
        let may_be_null = field.nullable.is_some_and(|versions| versions.contains(self.version));
        let null = match &mut self.random {
            Some(random) => may_be_null && random.once_in(4),
            None => field.default.as_deref() == Some("null"),
        };
        if null {
            match &field.ty {
                Type::Struct(_) => out.push(0xff),
                _ if self.flexible => out.push(0),
                Type::String => out.extend([0xff; 2]),
                _ => out.extend([0xff; 4]),
            }
            return;
        }
        if matches!(field.ty, Type::Struct(_)) && may_be_null {
            out.push(1);
        }
        match (&field.default, self.random.is_none()) {
            (Some(default), true) => self.default(&field.ty, default, out),
            _ => self.value(&field.ty, out),
        }
    }

    fn default(&mut self, ty: &Type, default: &str, out: &mut Vec<u8>) {
        let number = match default.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).unwrap(),
            None if default == "true" => 1,
            None => default.parse().unwrap(),
        };
        out.extend_from_slice(&number.to_be_bytes()[8 - width(ty)..]);
    }

    fn value(&mut self, ty: &Type, out: &mut Vec<u8>) {
        match ty {
            Type::Bool => out.push(self.below(2) as u8),
            Type::String => {
                let len = self.length(40, 300);
                let text: String = (0..len).map(|_| ["a", "Z", "-", "é", "水"][self.below(5)]).collect();
                self.short_length(text.len(), out);
                out.extend(text.bytes());
            }
            Type::Bytes | Type::Records | Type::Payload => {
                let len = self.length(60, 20_000);
                self.long_length(len, out);
                out.extend((0..len).map(|i| i as u8));
            }
            Type::Array(item) => {
                let len = self.length(4, 150);
                self.long_length(len, out);
                for _ in 0..len {
                    self.value(item, out);
                }
            }
            Type::Struct(name) => self.structure(self.schema.find(name), out),
            number => {
                // Numbers near zero meet the defaults; the others have all their bits.
                let bits = match &mut self.random {
                    Some(random) => match random.below(8) {
                        near @ 0..4 => (near as i64 - 2) as u64,
                        _ => random.next(),
                    },
                    None => 0,
                };
                out.extend(bits.to_be_bytes().iter().cycle().skip(8 - width(number) % 8).take(width(number)));
            }
        }
    }

    /// Mostly below `usual`, now and then up to `most`.
    fn length(&mut self, usual: usize, most: usize) -> usize {
        if self.random.is_some() && self.below(100) == 0 { self.below(most) } else { self.below(usual) }
    }

    fn short_length(&self, len: usize, out: &mut Vec<u8>) {
        match self.flexible {
            true => varint(len + 1, out),
            false => out.extend((len as i16).to_be_bytes()),
        }
    }

    fn long_length(&self, len: usize, out: &mut Vec<u8>) {
        match self.flexible {
            true => varint(len + 1, out),
            false => out.extend((len as i32).to_be_bytes()),
        }
    }
}

fn width(ty: &Type) -> usize {
    match ty {
        Type::Bool | Type::Int8 => 1,
        Type::Int16 | Type::Uint16 => 2,
        Type::Int32 | Type::Uint32 => 4,
        Type::Int64 | Type::Float64 => 8,
        Type::Uuid => 16,
        _ => unreachable!("{ty:?} is not a number"),
    }
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
