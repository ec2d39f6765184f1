//! Protobuf's schemas: read from `.proto` texts, and as the columns of a table.
//!
//! Files are found beside the one that imports them, or among those that a registry says it refers to; what Google's own packages
//! have is known. A field without presence has a value in every row; one with presence is null where it does not come.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::prost_types::DescriptorProto;
use protox::prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind as Declared, MessageDescriptor,
};

use crate::avro_schema::{COLUMNS_MAX, DEPTH_MAX};
use crate::fault::Fault;
use crate::kind::{JsonField, Kind};
use crate::protobuf::{Absent, Field, Form, Message, Read};

/// What is wrong, with its line and column.
fn told(error: protox::Error) -> String {
    format!("{error:?}")
}

/// The file at hand, where it has no name.
const FILE: &str = "value.proto";
/// How deep a frame may say that messages are declared within each other.
pub(crate) const NESTED_MAX: usize = 32;

/// Texts by the names under which they are imported.
struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// A message, and its columns.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) message: Message,
    pub(crate) columns: Vec<JsonField>,
}

impl Schema {
    /// The message of that name in a file, or the only one there.
    pub(crate) fn from_file(path: &Path, message: Option<&str>) -> Result<Self, String> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let compiled = Compiler::new([directory]).and_then(|mut compiler| {
            compiler.include_imports(true).open_file(path)?;
            Ok(compiler)
        });
        let compiler = compiled.map_err(told)?;
        let files: Vec<_> = compiler.files().collect();
        let name = files.iter().find(|file| !file.is_import()).map(|file| file.name().to_owned());
        Self::of(&compiler.descriptor_pool(), &name.unwrap_or_default(), message)
    }

    /// The message of that name in a text and those that it refers to, or the only one in it.
    pub(crate) fn from_text(
        text: &str,
        references: &[(String, String)],
        message: Option<&str>,
    ) -> Result<Self, String> {
        let mut texts: HashMap<_, _> = references.iter().cloned().collect();
        texts.insert(FILE.to_owned(), text.to_owned());
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(texts));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file(FILE).map_err(told)?;
        Self::of(&compiler.descriptor_pool(), FILE, message)
    }

    fn of(pool: &DescriptorPool, file: &str, message: Option<&str>) -> Result<Self, String> {
        let file = pool.get_file_by_name(file).ok_or("the file is not there")?;
        let all: Vec<_> = file.messages().collect();
        let names = || all.iter().map(MessageDescriptor::full_name).collect::<Vec<_>>().join(", ");
        let descriptor = match (message, &all[..]) {
            (Some(name), _) => pool
                .get_message_by_name(name)
                .ok_or_else(|| format!("there is no message {name:?} in it; there are {}", names()))?,
            (None, [only]) => only.clone(),
            (None, []) => return Err("it has no message".to_owned()),
            (None, _) => return Err(format!("it has several messages, and message says which: {}", names())),
        };
        let mut left = COLUMNS_MAX;
        let (message, columns) =
            message_of(&descriptor, &mut Vec::new(), &mut left).map_err(|fault| fault.told())?;
        Ok(Self { message, columns })
    }
}

/// A message and the columns of its fields.
fn message_of(
    descriptor: &MessageDescriptor,
    within: &mut Vec<String>,
    left: &mut usize,
) -> Result<(Message, Vec<JsonField>), Fault> {
    let name = descriptor.full_name().to_owned();
    if within.len() >= DEPTH_MAX {
        return Err(Fault::new(format!("columns are nested {DEPTH_MAX} deep at most")));
    }
    if within.contains(&name) {
        return Err(Fault::new(format!("message {name} holds itself, which columns cannot")));
    }
    within.push(name.clone());
    let mut fields = Vec::new();
    let mut columns: Vec<JsonField> = Vec::new();
    for descriptor in descriptor.fields() {
        let name = descriptor.name();
        *left = left
            .checked_sub(1)
            .ok_or_else(|| Fault::new(format!("the schema has more than {COLUMNS_MAX} columns")))?;
        // As columns are told apart.
        if columns.iter().any(|other| other.name.eq_ignore_ascii_case(name)) {
            return Err(Fault::new(format!("there are two fields {name:?}")));
        }
        let (field, column) = field_of(&descriptor, within, left).map_err(|fault| fault.in_field(name))?;
        fields.push(field);
        columns.push(column);
    }
    if fields.is_empty() {
        return Err(Fault::new(format!("message {name} has no field")));
    }
    within.pop();
    Ok((Message::new(name, fields), columns))
}

fn field_of(
    descriptor: &FieldDescriptor,
    within: &mut Vec<String>,
    left: &mut usize,
) -> Result<(Field, JsonField), Fault> {
    let name = descriptor.name().to_owned();
    let oneof = descriptor.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let oneof = oneof.map(|oneof| oneof.path().last().map_or(0, |&index| index as usize));
    let (form, kind, is_required) = if descriptor.is_map() {
        let entry = match descriptor.kind() {
            Declared::Message(entry) => entry,
            _ => unreachable!("a map is of entries"),
        };
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let part = |descriptor: &FieldDescriptor, read: Read| Field {
            name: descriptor.name().to_owned(),
            number: descriptor.number(),
            form: Form::One(read, Absent::Zero),
            oneof: None,
        };
        let (key_read, _) = read_of(&key, within, left)?;
        let (value_read, kind) = read_of(&value, within, left).map_err(Fault::in_items)?;
        let entry =
            Message::new(entry.full_name().to_owned(), vec![part(&key, key_read), part(&value, value_read)]);
        let value = JsonField { name: JsonField::VALUE.to_owned(), kind, is_required: true };
        (Form::Map(Box::new(entry)), Kind::Map(Box::new(value)), true)
    } else if descriptor.is_list() {
        let (read, kind) = read_of(descriptor, within, left).map_err(Fault::in_items)?;
        let item = JsonField { name: JsonField::ELEMENT.to_owned(), kind, is_required: true };
        (Form::Many(read), Kind::List(Box::new(item)), true)
    } else {
        let (read, kind) = read_of(descriptor, within, left)?;
        let absent = match descriptor.cardinality() {
            Cardinality::Required => Absent::Refused,
            _ if descriptor.supports_presence() => Absent::Null,
            _ => Absent::Zero,
        };
        (Form::One(read, absent), kind, absent != Absent::Null)
    };
    let field = Field { name: name.clone(), number: descriptor.number(), form, oneof };
    Ok((field, JsonField { name, kind, is_required }))
}

fn read_of(
    descriptor: &FieldDescriptor,
    within: &mut Vec<String>,
    left: &mut usize,
) -> Result<(Read, Kind), Fault> {
    // What has 64 bits and no sign.
    const UNSIGNED: Kind = Kind::Decimal { precision: 20, scale: 0 };
    if descriptor.is_group() {
        return Err(Fault::new("a group cannot be a column; a message can".to_owned()));
    }
    Ok(match descriptor.kind() {
        Declared::Double => (Read::Double, Kind::Float64),
        Declared::Float => (Read::Float, Kind::Float32),
        Declared::Int32 => (Read::Int32, Kind::Int32),
        Declared::Int64 => (Read::Int64, Kind::Int64),
        Declared::Uint32 => (Read::Uint32, Kind::Int64),
        Declared::Uint64 => (Read::Uint64, UNSIGNED),
        Declared::Sint32 => (Read::Sint32, Kind::Int32),
        Declared::Sint64 => (Read::Sint64, Kind::Int64),
        Declared::Fixed32 => (Read::Fixed32, Kind::Int64),
        Declared::Fixed64 => (Read::Fixed64, UNSIGNED),
        Declared::Sfixed32 => (Read::Sfixed32, Kind::Int32),
        Declared::Sfixed64 => (Read::Sfixed64, Kind::Int64),
        Declared::Bool => (Read::Bool, Kind::Bool),
        Declared::String => (Read::String, Kind::String),
        Declared::Bytes => (Read::Bytes, Kind::Bytes),
        Declared::Enum(names) => {
            // Of names for one number, the first that is declared.
            let mut values = BTreeMap::new();
            for value in names.values() {
                values.entry(value.number()).or_insert_with(|| value.name().to_owned());
            }
            (Read::Enum(values), Kind::String)
        }
        Declared::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            let part = |name: &str, number, read| Field {
                name: name.to_owned(),
                number,
                form: Form::One(read, Absent::Zero),
                oneof: None,
            };
            let parts = vec![part("seconds", 1, Read::Int64), part("nanos", 2, Read::Int32)];
            let message = Message::new(message.full_name().to_owned(), parts);
            (Read::Timestamp(Box::new(message)), Kind::Timestamp)
        }
        Declared::Message(message) => {
            let (message, columns) = message_of(&message, within, left)?;
            (Read::Message(Box::new(message)), Kind::Struct(columns))
        }
    })
}

/// The messages of a writer's file, to find one by the numbers that a frame has.
#[derive(Debug)]
pub(crate) struct Messages(Vec<Named>);

#[derive(Debug)]
struct Named {
    name: String,
    nested: Vec<Named>,
}

impl Messages {
    /// What it imports is not needed for that.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file = File::from_source(FILE, text).map_err(told)?;
        let file = file.file_descriptor_proto();
        Ok(Self(named(&file.message_type, file.package())))
    }

    /// The full name of the one at that place.
    pub(crate) fn at(&self, path: &[usize]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        let mut message = self.0.get(*first)?;
        for at in rest {
            message = message.nested.get(*at)?;
        }
        Some(&message.name)
    }
}

fn named(messages: &[DescriptorProto], above: &str) -> Vec<Named> {
    // Entries of maps are declared by nobody, and are not counted.
    let is_declared =
        |message: &&DescriptorProto| !message.options.as_ref().is_some_and(|options| options.map_entry());
    let of = |message: &DescriptorProto| {
        let name = match above {
            "" => message.name().to_owned(),
            above => format!("{above}.{}", message.name()),
        };
        let nested = named(&message.nested_type, &name);
        Named { name, nested }
    };
    messages.iter().filter(is_declared).map(of).collect()
}
