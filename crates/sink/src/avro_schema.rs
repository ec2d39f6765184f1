//! Avro schemas: read from their JSON, and as the columns of a table.
//!
//! After Avro 1.12, "Schema Declaration". A schema is a list of types that name each other by their place, so that one may hold
//! itself; what is to be columns must not. A logical type that does not go with what it is made of is left out, as the
//! specification has it; what cannot be columns is refused with its place, never guessed at.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::kind::{JsonField, Kind};

/// The most types of a schema, with those it refers to.
const TYPES_MAX: usize = 20_000;
/// The most columns, those within others included.
pub(crate) const COLUMNS_MAX: usize = 10_000;
/// How deep columns may be nested.
pub(crate) const DEPTH_MAX: usize = 64;

/// The place of a type in its schema.
pub(crate) type Place = usize;

/// A schema.
#[derive(Debug)]
pub(crate) struct Schema {
    types: Vec<Type>,
    pub(crate) root: Place,
}

/// A type, and what it means.
#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) form: Form,
    pub(crate) logical: Option<Logical>,
}

/// How a type is written.
#[derive(Debug)]
pub(crate) enum Form {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(Place),
    Map(Place),
    Union(Vec<Place>),
    Enum { name: Name, symbols: Vec<String>, default: Option<usize> },
    Fixed { name: Name, size: usize },
    Record { name: Name, fields: Vec<Field> },
}

/// What a type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logical {
    Decimal { precision: usize, scale: usize },
    Date,
    TimestampMillis,
    TimestampMicros,
    Uuid,
}

/// How a type is called.
#[derive(Debug)]
pub(crate) struct Name {
    /// With its namespace.
    pub(crate) full: String,
    aliases: Vec<String>,
}

/// A field of a record.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) of: Place,
    pub(crate) default: Option<Value>,
}

impl Name {
    /// Whether what a writer calls so is this one: by the last part of the name, or by an alias.
    pub(crate) fn is_of(&self, writer: &Name) -> bool {
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        last(&self.full) == last(&writer.full) || self.aliases.contains(&writer.full)
    }
}

impl Schema {
    /// Reads the last of these, which may name types of those before it.
    pub(crate) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        let mut root = None;
        for text in texts {
            // A schema that is a name alone may stand without quotes, as registries have it.
            let json = serde_json::from_str(text).or_else(|error| match text.trim() {
                word if !word.is_empty()
                    && word.chars().all(|c| c.is_alphanumeric() || c == '.' || c == '_') =>
                {
                    Ok(Value::from(word))
                }
                _ => Err(format!("it is no JSON: {error}")),
            })?;
            root = Some(parser.read(&json, "")?);
        }
        let root = root.ok_or("there is none")?;
        Ok(Self { types: parser.types, root })
    }

    pub(crate) fn at(&self, place: Place) -> &Type {
        &self.types[place]
    }

    /// What a type is called in messages.
    pub(crate) fn told(&self, place: Place) -> String {
        let Type { form, logical } = self.at(place);
        let form = match form {
            Form::Null => "null",
            Form::Boolean => "boolean",
            Form::Int => "int",
            Form::Long => "long",
            Form::Float => "float",
            Form::Double => "double",
            Form::Bytes => "bytes",
            Form::String => "string",
            Form::Array(_) => "array",
            Form::Map(_) => "map",
            Form::Union(members) => {
                let members: Vec<_> = members.iter().map(|&member| self.told(member)).collect();
                return format!("a union of {}", members.join(", "));
            }
            Form::Enum { name, .. } => return format!("enum {}", name.full),
            Form::Fixed { name, .. } => return format!("fixed {}", name.full),
            Form::Record { name, .. } => return format!("record {}", name.full),
        };
        match logical {
            Some(Logical::Decimal { precision, scale }) => format!("{form} as decimal({precision},{scale})"),
            _ => form.to_owned(),
        }
    }

    /// The columns that a record's fields become.
    pub(crate) fn columns(&self) -> Result<Vec<JsonField>, Fault> {
        let Form::Record { .. } = self.at(self.root).form else {
            return Err(Fault::new(format!("{} is no record, and has no columns", self.told(self.root))));
        };
        let mut within = Vec::new();
        let mut left = COLUMNS_MAX;
        match self.kind(self.root, &mut within, &mut left)? {
            Kind::Struct(fields) => Ok(fields),
            _ => unreachable!("a record is a struct"),
        }
    }

    /// A union of null and one other type is that type, as is a union of one; no other union can be a column.
    pub(crate) fn without_null(&self, place: Place) -> Option<Place> {
        let Form::Union(members) = &self.at(place).form else { return Some(place) };
        let mut others = members.iter().filter(|&&member| !matches!(self.at(member).form, Form::Null));
        match (others.next(), others.next()) {
            (Some(&one), None) => Some(one),
            _ => None,
        }
    }

    fn is_nullable(&self, place: Place) -> bool {
        let is_null = |&member: &Place| matches!(self.at(member).form, Form::Null);
        matches!(&self.at(place).form, Form::Union(members) if members.iter().any(is_null))
    }

    fn column(
        &self,
        name: &str,
        place: Place,
        within: &mut Vec<Place>,
        left: &mut usize,
    ) -> Result<JsonField, Fault> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| Fault::new(format!("the schema has more than {COLUMNS_MAX} columns")))?;
        let one = self.without_null(place).ok_or_else(|| {
            Fault::new(format!(
                "{} cannot be a column; a union of null and one other type can",
                self.told(place)
            ))
        })?;
        let kind = self.kind(one, within, left)?;
        Ok(JsonField { name: name.to_owned(), kind, is_required: !self.is_nullable(place) })
    }

    fn kind(&self, place: Place, within: &mut Vec<Place>, left: &mut usize) -> Result<Kind, Fault> {
        let Type { form, logical } = self.at(place);
        Ok(match (form, logical) {
            (_, Some(Logical::Decimal { precision, scale })) => {
                let too_large = || {
                    let digits = Kind::PRECISION_MAX;
                    Fault::new(format!(
                        "decimal({precision},{scale}) cannot be a column; one of at most {digits} digits can"
                    ))
                };
                let precision = u8::try_from(*precision).ok().filter(|&all| all <= Kind::PRECISION_MAX);
                let precision = precision.ok_or_else(too_large)?;
                Kind::Decimal { precision, scale: u8::try_from(*scale).map_err(|_| too_large())? }
            }
            (_, Some(Logical::Date)) => Kind::Date,
            (_, Some(Logical::TimestampMillis | Logical::TimestampMicros)) => Kind::Timestamp,
            (_, Some(Logical::Uuid)) | (Form::String | Form::Enum { .. }, None) => Kind::String,
            (Form::Null, None) => return Err(Fault::new("null alone cannot be a column".to_owned())),
            (Form::Boolean, None) => Kind::Bool,
            (Form::Int, None) => Kind::Int32,
            (Form::Long, None) => Kind::Int64,
            (Form::Float, None) => Kind::Float32,
            (Form::Double, None) => Kind::Float64,
            (Form::Bytes | Form::Fixed { .. }, None) => Kind::Bytes,
            (Form::Union(_), None) => unreachable!("a union's member is none"),
            (Form::Array(_) | Form::Map(_) | Form::Record { .. }, None) => {
                if within.len() >= DEPTH_MAX {
                    return Err(Fault::new(format!("columns are nested {DEPTH_MAX} deep at most")));
                }
                if within.contains(&place) {
                    return Err(Fault::new(format!(
                        "{} holds itself, which columns cannot",
                        self.told(place)
                    )));
                }
                within.push(place);
                let kind = self.nested(form, within, left)?;
                within.pop();
                kind
            }
        })
    }

    fn nested(&self, form: &Form, within: &mut Vec<Place>, left: &mut usize) -> Result<Kind, Fault> {
        Ok(match form {
            Form::Array(items) => Kind::List(Box::new(
                self.column(JsonField::ELEMENT, *items, within, left).map_err(Fault::in_items)?,
            )),
            Form::Map(values) => Kind::Map(Box::new(
                self.column(JsonField::VALUE, *values, within, left).map_err(Fault::in_items)?,
            )),
            Form::Record { name, fields } => {
                if fields.is_empty() {
                    return Err(Fault::new(format!("record {} has no field", name.full)));
                }
                let mut columns: Vec<JsonField> = Vec::with_capacity(fields.len());
                for field in fields {
                    // As columns are told apart.
                    if columns.iter().any(|other| other.name.eq_ignore_ascii_case(&field.name)) {
                        return Err(Fault::new(format!("there are two fields {:?}", field.name)));
                    }
                    let column = self.column(&field.name, field.of, within, left);
                    columns.push(column.map_err(|fault| fault.in_field(&field.name))?);
                }
                Kind::Struct(columns)
            }
            _ => unreachable!("only these hold others"),
        })
    }

    /// Writes a default, given as JSON, as a value of the type.
    pub(crate) fn encode(&self, place: Place, value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
        let is_no = || Fault::new(format!("the default {value} is no {}", self.told(place)));
        match (&self.at(place).form, value) {
            (Form::Union(members), _) => {
                // Of the first that takes it: from 1.12 on any may.
                let start = out.len();
                for (at, &member) in members.iter().enumerate() {
                    long(at as i64, out);
                    match self.encode(member, value, out) {
                        Ok(()) => return Ok(()),
                        Err(_) => out.truncate(start),
                    }
                }
                return Err(is_no());
            }
            (Form::Null, Value::Null) => {}
            (Form::Boolean, Value::Bool(is)) => out.push(u8::from(*is)),
            (Form::Int, Value::Number(number)) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                long(number.ok_or_else(is_no)?.into(), out);
            }
            (Form::Long, Value::Number(number)) => long(number.as_i64().ok_or_else(is_no)?, out),
            (Form::Float, Value::Number(number)) => {
                let number = number.as_f64().ok_or_else(is_no)?;
                out.extend((number as f32).to_le_bytes());
            }
            (Form::Double, Value::Number(number)) => {
                out.extend(number.as_f64().ok_or_else(is_no)?.to_le_bytes());
            }
            (Form::String, Value::String(text)) => {
                long(text.len() as i64, out);
                out.extend(text.as_bytes());
            }
            (Form::Bytes, Value::String(text)) => {
                let bytes = latin(text).ok_or_else(is_no)?;
                long(bytes.len() as i64, out);
                out.extend(bytes);
            }
            (Form::Fixed { size, .. }, Value::String(text)) => {
                out.extend(latin(text).filter(|bytes| bytes.len() == *size).ok_or_else(is_no)?);
            }
            (Form::Enum { symbols, .. }, Value::String(text)) => {
                let at = symbols.iter().position(|symbol| symbol == text).ok_or_else(is_no)?;
                long(at as i64, out);
            }
            (Form::Array(items), Value::Array(values)) => {
                if !values.is_empty() {
                    long(values.len() as i64, out);
                    for value in values {
                        self.encode(*items, value, out)?;
                    }
                }
                out.push(0);
            }
            (Form::Map(of), Value::Object(values)) => {
                if !values.is_empty() {
                    long(values.len() as i64, out);
                    for (key, value) in values {
                        long(key.len() as i64, out);
                        out.extend(key.as_bytes());
                        self.encode(*of, value, out)?;
                    }
                }
                out.push(0);
            }
            (Form::Record { fields, .. }, Value::Object(values)) => {
                for field in fields {
                    let value = values.get(&field.name).or(field.default.as_ref());
                    let written = self.encode(field.of, value.ok_or_else(is_no)?, out);
                    written.map_err(|fault| fault.in_field(&field.name))?;
                }
            }
            _ => return Err(is_no()),
        }
        Ok(())
    }
}

/// Bytes as defaults have them: a character for each.
fn latin(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// A whole number as Avro writes it.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

struct Parser {
    types: Vec<Type>,
    /// Types by their full names.
    names: HashMap<String, Place>,
}

impl Parser {
    fn add(&mut self, form: Form, logical: Option<Logical>) -> Result<Place, String> {
        if self.types.len() >= TYPES_MAX {
            return Err(format!("it has more than {TYPES_MAX} types"));
        }
        self.types.push(Type { form, logical });
        Ok(self.types.len() - 1)
    }

    fn read(&mut self, json: &Value, namespace: &str) -> Result<Place, String> {
        match json {
            Value::String(name) => self.named(name, namespace, None),
            Value::Array(members) => {
                let mut places = Vec::with_capacity(members.len());
                for member in members {
                    let place = self.read(member, namespace)?;
                    if matches!(self.types[place].form, Form::Union(_)) {
                        return Err("a union has no unions as members".to_owned());
                    }
                    places.push(place);
                }
                if places.is_empty() {
                    return Err("a union has no members".to_owned());
                }
                self.add(Form::Union(places), None)
            }
            Value::Object(object) => self.object(object, namespace),
            _ => Err(format!("{json} is no type")),
        }
    }

    /// A type that is there by its name.
    fn named(
        &mut self,
        name: &str,
        namespace: &str,
        object: Option<&Map<String, Value>>,
    ) -> Result<Place, String> {
        let form = match name {
            "null" => Form::Null,
            "boolean" => Form::Boolean,
            "int" => Form::Int,
            "long" => Form::Long,
            "float" => Form::Float,
            "double" => Form::Double,
            "bytes" => Form::Bytes,
            "string" => Form::String,
            _ => {
                let place = self.names.get(&full(name, namespace)).or_else(|| self.names.get(name));
                return place.copied().ok_or_else(|| format!("{name:?} is no type that is known here"));
            }
        };
        let logical = object.and_then(|object| logical(object, &form));
        self.add(form, logical)
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<Place, String> {
        let of = object.get("type").ok_or("a type says no \"type\"")?;
        let Value::String(of) = of else { return self.read(of, namespace) };
        let part = |key: &str| object.get(key).ok_or_else(|| format!("{of} says no {key:?}"));
        match of.as_str() {
            "array" => {
                let items = self.read(part("items")?, namespace)?;
                self.add(Form::Array(items), None)
            }
            "map" => {
                let values = self.read(part("values")?, namespace)?;
                self.add(Form::Map(values), None)
            }
            "enum" => {
                let (name, _) = name(object, namespace)?;
                let symbols = texts(part("symbols")?).ok_or("symbols are texts")?;
                let default = match object.get("default") {
                    None | Some(Value::Null) => None,
                    Some(default) => Some(
                        symbols
                            .iter()
                            .position(|symbol| Some(symbol.as_str()) == default.as_str())
                            .ok_or_else(|| format!("{default} is no symbol of enum {}", name.full))?,
                    ),
                };
                self.define(|name| Form::Enum { name, symbols, default }, name, object)
            }
            "fixed" => {
                let (name, _) = name(object, namespace)?;
                let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| format!("fixed {} has no size", name.full))?;
                self.define(|name| Form::Fixed { name, size }, name, object)
            }
            "record" | "error" => {
                let (name, namespace) = name(object, namespace)?;
                let Value::Array(declared) = part("fields")? else {
                    return Err(format!("record {} has no list of fields", name.full));
                };
                let told = name.full.clone();
                // Before its fields, which may be of it.
                let place = self.define(|name| Form::Record { name, fields: Vec::new() }, name, object)?;
                let mut read = Vec::with_capacity(declared.len());
                let mut seen = HashSet::new();
                for field in declared {
                    let field =
                        self.field(field, &namespace).map_err(|problem| format!("{told}: {problem}"))?;
                    if !seen.insert(field.name.clone()) {
                        return Err(format!("{told}: there are two fields {:?}", field.name));
                    }
                    read.push(field);
                }
                match &mut self.types[place].form {
                    Form::Record { fields, .. } => *fields = read,
                    _ => unreachable!("it was put there"),
                }
                Ok(place)
            }
            name => self.named(name, namespace, Some(object)),
        }
    }

    fn define(
        &mut self,
        form: impl FnOnce(Name) -> Form,
        name: Name,
        object: &Map<String, Value>,
    ) -> Result<Place, String> {
        let full = name.full.clone();
        let form = form(name);
        let logical = logical(object, &form);
        let place = self.add(form, logical)?;
        match self.names.insert(full.clone(), place) {
            None => Ok(place),
            Some(_) => Err(format!("there are two types {full:?}")),
        }
    }

    fn field(&mut self, json: &Value, namespace: &str) -> Result<Field, String> {
        let name = json.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or("a field has no name")?.to_owned();
        let of = json.get("type").ok_or_else(|| format!("field {name:?} says no type"))?;
        let of = self.read(of, namespace).map_err(|problem| format!("field {name:?}: {problem}"))?;
        let aliases = json.get("aliases").and_then(texts).unwrap_or_default();
        Ok(Field { name, aliases, of, default: json.get("default").cloned() })
    }
}

fn full(name: &str, namespace: &str) -> String {
    match namespace.is_empty() || name.contains('.') {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

/// What a type is called, and the namespace of what is within it.
fn name(object: &Map<String, Value>, enclosing: &str) -> Result<(Name, String), String> {
    let name = object.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("a record, an enum and a fixed have names, and one has none")?;
    let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(enclosing);
    let full_name = full(name, namespace);
    let namespace = full_name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
    let aliases = object.get("aliases").and_then(texts).unwrap_or_default();
    let aliases = aliases.iter().map(|alias| full(alias, &namespace)).collect();
    Ok((Name { full: full_name, aliases }, namespace))
}

fn texts(json: &Value) -> Option<Vec<String>> {
    json.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// What a type stands for, if that goes with how it is written.
fn logical(object: &Map<String, Value>, form: &Form) -> Option<Logical> {
    let number = |key: &str| object.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match (object.get("logicalType")?.as_str()?, form) {
        ("decimal", Form::Bytes | Form::Fixed { .. }) => {
            let (precision, scale) = (number("precision")?, number("scale").unwrap_or(0));
            (precision > 0 && scale <= precision).then_some(Logical::Decimal { precision, scale })
        }
        ("date", Form::Int) => Some(Logical::Date),
        ("timestamp-millis", Form::Long) => Some(Logical::TimestampMillis),
        ("timestamp-micros", Form::Long) => Some(Logical::TimestampMicros),
        ("uuid", Form::String) => Some(Logical::Uuid),
        ("uuid", Form::Fixed { size: 16, .. }) => Some(Logical::Uuid),
        _ => None,
    }
}
