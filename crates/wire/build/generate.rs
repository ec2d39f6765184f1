//! Prints Rust for a parsed schema: structs with their defaults, readers, writers, and the table of APIs.
//!
//! Invariant: the printed code asks `Decoder` for everything it takes from the wire, so that one place
//! keeps every bound. It never prints code that can fail on encoding.

use std::fmt::Write;

use crate::schema::{Field, Kind, Schema, Struct, Type, Versions};

/// `pub mod <module> { … }` for every schema.
pub fn messages(schemas: &[Schema]) -> String {
    let mut out = String::new();
    for schema in schemas {
        let what = match &schema.kind {
            Kind::Api { code, name, .. } => format!("{name}, API {code}"),
            Kind::Record { name, .. } => name.clone(),
        };
        let Versions { first, last } = schema.versions;
        line(&mut out, 0, &format!("/// {what}, versions {first} to {last}."));
        line(&mut out, 0, &format!("pub mod {} {{", schema.module));
        line(&mut out, 1, "use super::support::*;");
        for structure in &schema.structs {
            definition(&mut out, schema, structure);
            reader(&mut out, schema, structure);
            writer(&mut out, schema, structure);
        }
        for name in schema.messages() {
            message(&mut out, schema, name);
        }
        line(&mut out, 0, "}");
        out.push('\n');
    }
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    writeln!(out, "{:1$}{text}", "", depth * 4).unwrap();
}

fn definition(out: &mut String, schema: &Schema, structure: &Struct) {
    let derived = structure.fields.iter().all(|field| default_value(field) == zero_value(field));
    out.push('\n');
    line(out, 1, &format!("/// `{}` of {}.", structure.name, schema.module));
    let default = if derived { ", Default" } else { "" };
    line(out, 1, &format!("#[derive(Debug, Clone, PartialEq{default})]"));
    line(out, 1, &format!("pub struct {} {{", structure.name));
    for field in &structure.fields {
        if let Some(doc) = &field.doc {
            line(out, 2, &format!("/// {doc}"));
            line(out, 2, "///");
        }
        line(out, 2, &format!("/// `{}`", field.notation));
        line(out, 2, &format!("pub {}: {},", identifier(field), rust_type(field)));
    }
    line(out, 1, "}");
    if !derived {
        out.push('\n');
        line(out, 1, &format!("impl Default for {} {{", structure.name));
        line(out, 2, "fn default() -> Self {");
        line(out, 3, "Self {");
        for field in &structure.fields {
            line(out, 4, &format!("{}: {},", identifier(field), default_value(field)));
        }
        line(out, 3, "}");
        line(out, 2, "}");
        line(out, 1, "}");
    }
}

fn reader(out: &mut String, schema: &Schema, structure: &Struct) {
    out.push('\n');
    line(out, 1, &format!("impl {} {{", structure.name));
    line(out, 2, "fn read(d: &mut Decoder, v: i16) -> Result<Self, DecodeError> {");
    let (tagged, plain): (Vec<_>, Vec<_>) = structure.fields.iter().partition(|f| f.tag.is_some());
    for field in &plain {
        let value = match condition(field.versions, structure.versions) {
            None => read_field(schema, field),
            Some(present) => {
                format!(
                    "if {present} {{ {} }} else {{ {} }}",
                    read_field(schema, field),
                    default_value(field)
                )
            }
        };
        line(out, 3, &format!("let {} = {value};", identifier(field)));
    }
    for field in &tagged {
        line(out, 3, &format!("let mut {} = {};", identifier(field), default_value(field)));
    }
    if tagged.is_empty() {
        if schema.flexible.is_some() {
            line(out, 3, "d.skip_tagged_fields()?;");
        }
    } else {
        line(out, 3, "d.tagged_fields(|d, tag| {");
        line(out, 4, "match tag {");
        for field in &tagged {
            // Tags count only in versions that define them; elsewhere they are as unknown as any other.
            let flexible = Versions { first: schema.flexible.unwrap(), last: structure.versions.last };
            let guard = condition(field.versions, flexible).map(|c| format!(" if {c}")).unwrap_or_default();
            let read = read_field(schema, field);
            line(out, 5, &format!("{}{guard} => {} = {read},", field.tag.unwrap(), identifier(field)));
        }
        line(out, 5, "_ => return Ok(false),");
        line(out, 4, "}");
        line(out, 4, "Ok(true)");
        line(out, 3, "})?;");
    }
    let names: Vec<String> = structure.fields.iter().map(identifier).collect();
    line(out, 3, &format!("Ok(Self {{ {} }})", names.join(", ")));
    line(out, 2, "}");
    out.push('\n');
}

fn writer(out: &mut String, schema: &Schema, structure: &Struct) {
    line(out, 2, "fn write(&self, e: &mut Encoder, v: i16) {");
    let (mut tagged, plain): (Vec<_>, Vec<_>) = structure.fields.iter().partition(|f| f.tag.is_some());
    for field in plain {
        let write = write_field(schema, field);
        match condition(field.versions, structure.versions) {
            None => line(out, 3, &format!("{write};")),
            Some(present) => {
                line(out, 3, &format!("if {present} {{"));
                line(out, 4, &format!("{write};"));
                line(out, 3, "}");
            }
        }
    }
    if tagged.is_empty() {
        if schema.flexible.is_some() {
            line(out, 3, "e.no_tagged_fields();");
        }
    } else {
        // Kafka sends tags in ascending order, and none whose field holds its default: readers exist that
        // trip over a tag they could have done without.
        tagged.sort_by_key(|field| field.tag);
        for field in &tagged {
            let differs = differs_from_default(field);
            let sent = match condition(field.versions, structure.versions) {
                None => differs,
                Some(present) => format!("{present} && {differs}"),
            };
            line(out, 3, &format!("let {}_sent = {sent};", field.name));
        }
        let counts: Vec<String> = tagged.iter().map(|f| format!("u32::from({}_sent)", f.name)).collect();
        line(out, 3, &format!("e.tagged_field_count({});", counts.join(" + ")));
        for field in &tagged {
            line(out, 3, &format!("if {}_sent {{", field.name));
            let (tag, write) = (field.tag.unwrap(), write_field(schema, field));
            line(out, 4, &format!("e.tagged_field({tag}, |e| {write});"));
            line(out, 3, "}");
        }
    }
    line(out, 2, "}");
    line(out, 1, "}");
}

fn message(out: &mut String, schema: &Schema, name: &str) {
    let Versions { first, last } = schema.versions;
    out.push('\n');
    line(out, 1, &format!("impl Message for {name} {{"));
    line(out, 2, &format!("const NAME: &'static str = \"{name}\";"));
    line(out, 2, &format!("const VERSIONS: RangeInclusive<i16> = {first}..={last};"));
    line(out, 2, &format!("const FLEXIBLE_FROM: Option<i16> = {:?};", schema.flexible));
    out.push('\n');
    line(out, 2, "fn decode(d: &mut Decoder, version: i16) -> Result<Self, DecodeError> {");
    line(out, 3, "d.begin::<Self>(version)?;");
    line(out, 3, "Self::read(d, version)");
    line(out, 2, "}");
    out.push('\n');
    line(out, 2, "fn encode(&self, e: &mut Encoder, version: i16) {");
    line(out, 3, "e.begin::<Self>(version);");
    line(out, 3, "self.write(e, version);");
    line(out, 2, "}");
    line(out, 1, "}");
    if let Kind::Record { key: Some(key), .. } = schema.kind {
        out.push('\n');
        line(out, 1, &format!("impl {name} {{"));
        line(out, 2, "/// Kafka's number for this type of record.");
        line(out, 2, &format!("pub const TYPE: i16 = {key};"));
        line(out, 1, "}");
    }
}

fn identifier(field: &Field) -> String {
    match field.name.as_str() {
        "type" | "match" | "ref" | "loop" | "move" => format!("r#{}", field.name),
        name => name.to_owned(),
    }
}

fn is_error_code(field: &Field) -> bool {
    field.ty == Type::Int16 && (field.name == "error_code" || field.name.ends_with("_error_code"))
}

fn rust_type(field: &Field) -> String {
    let base = match &field.ty {
        Type::Int16 if is_error_code(field) => "ErrorCode".to_owned(),
        Type::Struct(name) if field.nullable.is_some() => format!("Box<{name}>"),
        ty => base_type(ty),
    };
    if field.nullable.is_some() { format!("Option<{base}>") } else { base }
}

fn base_type(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::Int8 => "i8".into(),
        Type::Int16 => "i16".into(),
        Type::Uint16 => "u16".into(),
        Type::Int32 => "i32".into(),
        Type::Uint32 => "u32".into(),
        Type::Int64 => "i64".into(),
        Type::Float64 => "f64".into(),
        Type::Uuid => "Uuid".into(),
        Type::String => "Str".into(),
        Type::Bytes | Type::Records => "Bytes".into(),
        Type::Payload => "Payload".into(),
        Type::Struct(name) => name.clone(),
        Type::Array(item) => format!("Vec<{}>", base_type(item)),
    }
}

/// What `#[derive(Default)]` would give.
fn zero_value(field: &Field) -> String {
    if field.nullable.is_some() { "None".to_owned() } else { empty_value(field) }
}

fn empty_value(field: &Field) -> String {
    match &field.ty {
        Type::Bool => "false".into(),
        Type::Int16 if is_error_code(field) => "ErrorCode(0)".into(),
        Type::Int8 | Type::Int16 | Type::Uint16 | Type::Int32 | Type::Uint32 | Type::Int64 => "0".into(),
        Type::Float64 => "0.0".into(),
        Type::Uuid => "Uuid::ZERO".into(),
        Type::String => "Str::default()".into(),
        Type::Bytes | Type::Records => "Bytes::new()".into(),
        Type::Payload => "Payload::default()".into(),
        Type::Struct(_) if field.nullable.is_some() => "Box::default()".into(),
        Type::Struct(name) => format!("{name}::default()"),
        Type::Array(_) => "Vec::new()".into(),
    }
}

/// The schema's default. A nullable field without one defaults to empty, as it does in Kafka.
fn default_value(field: &Field) -> String {
    match field.default.as_deref() {
        Some("null") => "None".to_owned(),
        Some(value) if is_error_code(field) => format!("ErrorCode({value})"),
        Some(value) if field.ty == Type::String => format!("Str::from({value:?})"),
        Some(value) => value.to_owned(),
        None if field.nullable.is_some() => format!("Some({})", empty_value(field)),
        None => empty_value(field),
    }
}

fn differs_from_default(field: &Field) -> String {
    let name = identifier(field);
    match (field.default.as_deref(), &field.ty) {
        (Some("null"), _) => format!("self.{name}.is_some()"),
        (None, Type::String | Type::Bytes | Type::Array(_)) if field.nullable.is_none() => {
            format!("!self.{name}.is_empty()")
        }
        (None, Type::Bool) => format!("self.{name}"),
        _ => format!("self.{name} != {}", default_value(field)),
    }
}

/// The test on `v` for a field of versions `inner` in a place that exists in `outer`; none if always there.
fn condition(inner: Versions, outer: Versions) -> Option<String> {
    match (inner.first > outer.first, inner.last < outer.last) {
        (false, false) => None,
        (true, false) => Some(format!("v >= {}", inner.first)),
        (false, true) => Some(format!("v <= {}", inner.last)),
        (true, true) if inner.first == inner.last => Some(format!("v == {}", inner.first)),
        (true, true) => Some(format!("({}..={}).contains(&v)", inner.first, inner.last)),
    }
}

fn read_field(schema: &Schema, field: &Field) -> String {
    let plain = read_value(schema, field, false);
    match field.nullable {
        None => plain,
        Some(nullable) => {
            let maybe = read_value(schema, field, true);
            match condition(nullable, field.versions) {
                None => maybe,
                Some(may_be_null) => format!("if {may_be_null} {{ {maybe} }} else {{ Some({plain}) }}"),
            }
        }
    }
}

fn read_value(schema: &Schema, field: &Field, nullable: bool) -> String {
    let prefix = if nullable { "nullable_" } else { "" };
    match &field.ty {
        Type::Int16 if is_error_code(field) => "d.error_code()?".into(),
        Type::Struct(name) if nullable => format!("d.nullable_struct(|d| {name}::read(d, v))?"),
        Type::Struct(name) if field.nullable.is_some() => format!("Box::new({name}::read(d, v)?)"),
        Type::Struct(name) => format!("{name}::read(d, v)?"),
        Type::Array(item) => {
            let bytes_min = item_bytes_min(schema, item, field.versions);
            let read = match &**item {
                Type::Struct(name) => format!("|d| {name}::read(d, v)"),
                scalar => format!("Decoder::{}", scalar_method(scalar)),
            };
            format!("d.{prefix}array({bytes_min}, {read})?")
        }
        Type::String | Type::Bytes | Type::Records | Type::Payload => {
            format!("d.{prefix}{}()?", scalar_method(&field.ty))
        }
        scalar => format!("d.{}()?", scalar_method(scalar)),
    }
}

fn write_field(schema: &Schema, field: &Field) -> String {
    let name = identifier(field);
    let Some(nullable) = field.nullable else {
        return write_value(schema, field, &format!("self.{name}"), false);
    };
    let maybe = write_value(schema, field, &format!("self.{name}"), true);
    match condition(nullable, field.versions) {
        None => maybe,
        // Null where the version has no null: the nearest thing it can say is "empty".
        Some(may_be_null) => {
            let empty = match &field.ty {
                Type::String => "e.string(\"\")".to_owned(),
                Type::Array(_) => "e.array_len(0)".to_owned(),
                Type::Bytes | Type::Records => "e.bytes(&Bytes::new())".to_owned(),
                Type::Payload => "e.payload(&Payload::default())".to_owned(),
                _ => panic!("{}: nullable in some versions only is not handled for this type", field.name),
            };
            let plain = write_value(schema, field, "value", false);
            format!(
                "match &self.{name} {{ Some(value) => {plain}, None if {may_be_null} => {maybe}, None => {empty} }}"
            )
        }
    }
}

fn write_value(_schema: &Schema, field: &Field, value: &str, nullable: bool) -> String {
    let prefix = if nullable { "nullable_" } else { "" };
    let reference = if value.starts_with("self.") { format!("&{value}") } else { value.to_owned() };
    match &field.ty {
        Type::Int16 if is_error_code(field) => format!("e.error_code({value})"),
        Type::Struct(_) if nullable => format!("e.nullable_struct({reference}, |e, s| s.write(e, v))"),
        Type::Struct(_) => format!("{value}.write(e, v)"),
        Type::Array(item) => {
            let write = match &**item {
                Type::Struct(_) => "|e, item| item.write(e, v)".to_owned(),
                Type::String => "|e, item| e.string(item)".to_owned(),
                Type::Bytes | Type::Uuid => format!("|e, item| e.{}(item)", scalar_method(item)),
                scalar => format!("|e, item| e.{}(*item)", scalar_method(scalar)),
            };
            format!("e.{prefix}array({reference}, {write})")
        }
        Type::String | Type::Bytes | Type::Records | Type::Payload | Type::Uuid => {
            format!("e.{prefix}{}({reference})", scalar_method(&field.ty))
        }
        scalar => format!("e.{}({value})", scalar_method(scalar)),
    }
}

fn scalar_method(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::Int8 => "int8",
        Type::Int16 => "int16",
        Type::Uint16 => "uint16",
        Type::Int32 => "int32",
        Type::Uint32 => "uint32",
        Type::Int64 => "int64",
        Type::Float64 => "float64",
        Type::Uuid => "uuid",
        Type::String => "string",
        // A length and that many bytes, whatever they hold.
        Type::Bytes | Type::Records => "bytes",
        Type::Payload => "payload",
        Type::Struct(_) | Type::Array(_) => unreachable!("not a scalar"),
    }
}

/// The fewest bytes one item takes in any of `versions`: what makes a count believable.
fn item_bytes_min(schema: &Schema, item: &Type, versions: Versions) -> usize {
    (versions.first..=versions.last).map(|v| bytes_min(schema, item, false, v)).min().unwrap_or(1)
}

fn bytes_min(schema: &Schema, ty: &Type, nullable: bool, version: i16) -> usize {
    let flexible = schema.is_flexible(version);
    match ty {
        Type::Bool | Type::Int8 => 1,
        Type::Int16 | Type::Uint16 => 2,
        Type::Int32 | Type::Uint32 => 4,
        Type::Int64 | Type::Float64 => 8,
        Type::Uuid => 16,
        Type::String | Type::Bytes | Type::Records | Type::Payload | Type::Array(_) if flexible => 1,
        Type::String => 2,
        Type::Bytes | Type::Records | Type::Payload | Type::Array(_) => 4,
        Type::Struct(_) if nullable => 1,
        Type::Struct(name) => {
            let fields = &schema.find(name).fields;
            let present = fields.iter().filter(|f| f.tag.is_none() && f.versions.contains(version));
            let fields: usize =
                present.map(|f| bytes_min(schema, &f.ty, f.nullable.is_some(), version)).sum();
            fields + usize::from(flexible)
        }
    }
}

/// `ApiKey`, `Request` and `Response`: one variant per API.
pub fn api_table(schemas: &[Schema]) -> String {
    let apis: Vec<(&Schema, i16, &str)> = schemas
        .iter()
        .filter_map(|schema| match &schema.kind {
            Kind::Api { code, name, .. } => Some((schema, *code, name.as_str())),
            Kind::Record { .. } => None,
        })
        .collect();
    let mut out = String::new();
    line(&mut out, 0, "/// The APIs this project speaks, named and numbered as Kafka does.");
    line(&mut out, 0, "#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]");
    line(&mut out, 0, "pub enum ApiKey {");
    for (schema, code, name) in &apis {
        let Versions { first, last } = schema.versions;
        line(&mut out, 1, &format!("/// API {code}, versions {first} to {last}."));
        line(&mut out, 1, &format!("{name} = {code},"));
    }
    line(&mut out, 0, "}");
    out.push('\n');
    line(&mut out, 0, "impl ApiKey {");
    line(&mut out, 1, "/// Every API, by ascending code.");
    let all: Vec<String> = apis.iter().map(|(_, _, name)| format!("ApiKey::{name}")).collect();
    line(&mut out, 1, &format!("pub const ALL: [ApiKey; {}] = [{}];", apis.len(), all.join(", ")));
    out.push('\n');
    line(&mut out, 1, "/// The API with this code, if it is one of ours.");
    line(&mut out, 1, "pub fn from_code(code: i16) -> Option<ApiKey> {");
    line(&mut out, 2, "Some(match code {");
    for (_, code, name) in &apis {
        line(&mut out, 3, &format!("{code} => ApiKey::{name},"));
    }
    line(&mut out, 3, "_ => return None,");
    line(&mut out, 2, "})");
    line(&mut out, 1, "}");
    let per_api = |out: &mut String, doc: &str, signature: &str, value: &dyn Fn(&Schema, &str) -> String| {
        out.push('\n');
        line(out, 1, &format!("/// {doc}"));
        line(out, 1, &format!("pub const fn {signature} {{"));
        line(out, 2, "match self {");
        for (schema, _, name) in &apis {
            line(out, 3, &format!("ApiKey::{name} => {},", value(schema, name)));
        }
        line(out, 2, "}");
        line(out, 1, "}");
    };
    per_api(&mut out, "Kafka's name.", "name(self) -> &'static str", &|_, name| format!("{name:?}"));
    per_api(
        &mut out,
        "The versions spoken, both ends included.",
        "versions(self) -> RangeInclusive<i16>",
        &|schema, _| format!("{}..={}", schema.versions.first, schema.versions.last),
    );
    per_api(
        &mut out,
        "The first version with compact lengths and tagged fields.",
        "flexible_from(self) -> Option<i16>",
        &|schema, _| format!("{:?}", schema.flexible),
    );
    line(&mut out, 0, "}");
    message_enum(&mut out, &apis, "Request", "request");
    message_enum(&mut out, &apis, "Response", "response");
    throttle_time(&mut out, &apis);
    for (schema, _, name) in &apis {
        let module = format!("messages::{}", schema.module);
        out.push('\n');
        line(&mut out, 0, &format!("impl ApiRequest for {module}::{name}Request {{"));
        line(&mut out, 1, &format!("const API: ApiKey = ApiKey::{name};"));
        line(&mut out, 1, &format!("type Response = {module}::{name}Response;"));
        line(&mut out, 0, "}");
    }
    out
}

/// The field in which most responses tell their client to hold back.
fn throttle_time(out: &mut String, apis: &[(&Schema, i16, &str)]) {
    out.push('\n');
    line(out, 0, "impl Response {");
    line(
        out,
        1,
        "/// For how long its client is to hold requests back, in milliseconds; none where it cannot say so.",
    );
    line(out, 1, "pub fn throttle_time_ms_mut(&mut self) -> Option<&mut i32> {");
    line(out, 2, "match self {");
    for (schema, _, name) in apis {
        let fields = &schema.find(&format!("{name}Response")).fields;
        let told = fields.iter().any(|field| field.name == "throttle_time_ms");
        let (message, time) =
            if told { ("message", "Some(&mut message.throttle_time_ms)") } else { ("_", "None") };
        line(out, 3, &format!("Response::{name}({message}) => {time},"));
    }
    line(out, 2, "}");
    line(out, 1, "}");
    line(out, 0, "}");
}

/// `suffix` is `Request` or `Response`, `noun` the same word in a sentence.
fn message_enum(out: &mut String, apis: &[(&Schema, i16, &str)], suffix: &str, noun: &str) {
    let path = |schema: &Schema, name: &str| format!("messages::{}::{name}{suffix}", schema.module);
    out.push('\n');
    line(out, 0, &format!("/// A {noun} of any API."));
    line(out, 0, "#[derive(Debug, Clone, PartialEq)]");
    line(out, 0, &format!("pub enum {suffix} {{"));
    for (schema, _, name) in apis {
        line(out, 1, &format!("/// A {noun} of [`ApiKey::{name}`]."));
        line(out, 1, &format!("{name}({}),", path(schema, name)));
    }
    line(out, 0, "}");
    out.push('\n');
    line(out, 0, &format!("impl {suffix} {{"));
    line(out, 1, &format!("/// The API this is a {noun} of."));
    line(out, 1, "pub const fn api(&self) -> ApiKey {");
    line(out, 2, "match self {");
    for (_, _, name) in apis {
        line(out, 3, &format!("{suffix}::{name}(_) => ApiKey::{name},"));
    }
    line(out, 2, "}");
    line(out, 1, "}");
    out.push('\n');
    line(out, 1, &format!("/// Reads the {noun} at the decoder's position; what follows it is left alone."));
    line(
        out,
        1,
        &format!(
            "pub fn decode_from(api: ApiKey, version: i16, d: &mut Decoder) -> Result<{suffix}, DecodeError> {{"
        ),
    );
    line(out, 2, "Ok(match api {");
    for (schema, _, name) in apis {
        let read = format!("{}::decode(d, version)?", path(schema, name));
        line(out, 3, &format!("ApiKey::{name} => {suffix}::{name}({read}),"));
    }
    line(out, 2, "})");
    line(out, 1, "}");
    out.push('\n');
    line(out, 1, "/// Writes it in `version`, which must be one of the API's.");
    line(out, 1, "pub fn encode(&self, e: &mut Encoder, version: i16) {");
    line(out, 2, "match self {");
    for (_, _, name) in apis {
        line(out, 3, &format!("{suffix}::{name}(message) => message.encode(e, version),"));
    }
    line(out, 2, "}");
    line(out, 1, "}");
    line(out, 0, "}");
    for (schema, _, name) in apis {
        let from = path(schema, name);
        out.push('\n');
        line(out, 0, &format!("impl From<{from}> for {suffix} {{"));
        line(out, 1, &format!("fn from(message: {from}) -> Self {{"));
        line(out, 2, &format!("{suffix}::{name}(message)"));
        line(out, 1, "}");
        line(out, 0, "}");
    }
}
