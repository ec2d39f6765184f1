//! The part of `sink.toml` that says what values are: their format, and the columns they become.
//!
//! Columns are declared, or a schema says them, never both.

use std::path::Path;
use std::sync::Arc;

use toml::de::DeValue;
use wire::Str;

use crate::columns::Format;
use crate::encoded::{Codec, Encoded, Source};
use crate::kind::{JsonField, Kind};
use crate::registry::Registry;
use crate::settings::{Problem, Section, Value, list, text};

const FORMATS: [&str; 5] = ["bytes", "text", "json", "avro", "protobuf"];

/// What values are, as `[value]` declares it. Files of schemas that it names are read.
pub(crate) fn value_format(mut section: Section<'_>, topics: &[Str]) -> Result<Format, Problem> {
    let value = section.required("format", "\"json\"")?;
    let format = match text("format", value)? {
        "json" => {
            let example = "[{ name = \"id\", type = \"int64\" }]";
            let what = || format!("format = \"json\" needs fields, as in fields = {example}");
            let fields = section.get("fields").ok_or_else(|| Problem::new(value.span(), what()))?;
            Format::Json(declared(fields)?)
        }
        "bytes" => Format::Bytes,
        "text" => Format::Text,
        "avro" => Format::Encoded(Arc::new(encoded(&mut section, value, topics, Codec::Avro)?)),
        "protobuf" => {
            let message = section.get("message").map(|value| text("message", value)).transpose()?;
            let codec = Codec::Protobuf { message: message.map(str::to_owned) };
            Format::Encoded(Arc::new(encoded(&mut section, value, topics, codec)?))
        }
        other => {
            let what = format!("format: {other:?} is none of {}", FORMATS.join(", "));
            return Err(Problem::new(value.span(), what));
        }
    };
    if let (Some(fields), Format::Bytes | Format::Text | Format::Encoded(_)) =
        (section.get("fields"), &format)
    {
        let what = match format {
            Format::Encoded(_) => "the schema says the fields; only format = \"json\" declares them",
            _ => "only format = \"json\" has fields",
        };
        return Err(Problem::new(fields.span(), what));
    }
    section.end()?;
    Ok(format)
}

fn encoded(
    section: &mut Section<'_>,
    format: &Value<'_>,
    topics: &[Str],
    codec: Codec,
) -> Result<Encoded, Problem> {
    let schema = section.get("schema");
    let source = registry(section, topics, schema.is_some())?;
    if let (None, None) = (schema, &source) {
        let (name, file) = match codec {
            Codec::Avro => ("avro", "orders.avsc"),
            Codec::Protobuf { .. } => ("protobuf", "orders.proto"),
        };
        let what = format!(
            "format = {name:?} needs a schema, as in schema = {file:?}, or a registry, as in registry = \"http://HOST:8081\""
        );
        return Err(Problem::new(format.span(), what));
    }
    let path = schema.map(|schema| text("schema", schema)).transpose()?.map(Path::new);
    let span = schema.map_or_else(|| format.span(), Value::span);
    Encoded::new(codec, path, source).map_err(|problem| Problem::new(span, format!("schema: {problem}")))
}

/// Where schemas are that values name. What says the columns is found there as well, unless it is in a file.
fn registry(section: &mut Section<'_>, topics: &[Str], has_file: bool) -> Result<Option<Source>, Problem> {
    let address = section.get("registry");
    let token = section.get("registry_token");
    let subject = section.get("subject");
    let version = section.number("version", 0)?;
    let Some(address) = address else {
        for (key, value) in
            [("registry_token", token), ("subject", subject), ("version", section.get("version"))]
        {
            if let Some(value) = value {
                return Err(Problem::new(
                    value.span(),
                    format!("{key} goes with a registry, and there is none"),
                ));
            }
        }
        return Ok(None);
    };
    let told = |value: &Value<'_>, key: &str, problem: String| {
        Problem::new(value.span(), format!("{key}: {problem}"))
    };
    let mut registry: Registry =
        text("registry", address)?.parse().map_err(|problem| told(address, "registry", problem))?;
    if let Some(token) = token {
        let with_token = registry.with_token(text("registry_token", token)?);
        registry = with_token.map_err(|problem| told(token, "registry_token", problem))?;
    }
    if has_file {
        for (key, value) in [("subject", subject), ("version", section.get("version"))] {
            if let Some(value) = value {
                let what = format!("{key} says which schema has the columns, and schema says it already");
                return Err(Problem::new(value.span(), what));
            }
        }
    }
    let subject = match (subject, topics) {
        (Some(subject), _) => text("subject", subject)?.to_owned(),
        (None, [topic]) => format!("{topic}-value"),
        (None, _) if has_file => String::new(),
        (None, _) => {
            let what = "with more than one topic it has to be said whose schema has the columns, as in subject = \"orders-value\", or schema = \"orders.avsc\"";
            return Err(Problem::new(address.span(), what));
        }
    };
    let version = match (version, section.get("version")) {
        (_, None) => None,
        (version, Some(value)) => Some(u32::try_from(version).map_err(|_| {
            Problem::new(value.span(), format!("version takes a whole number of at most {}", u32::MAX))
        })?),
    };
    Ok(Some(Source { registry, subject, version }))
}

/// The fields of an object.
fn declared(fields: &Value<'_>) -> Result<Vec<JsonField>, Problem> {
    let mut declared: Vec<JsonField> = Vec::new();
    for item in list("fields", fields)? {
        let DeValue::Table(table) = item.get_ref() else {
            let what = "a field is declared as { name = \"id\", type = \"int64\" }";
            return Err(Problem::new(item.span(), what));
        };
        let mut section = Section::new("a field's ", item.span(), table);
        let value = section.required("name", "\"id\"")?;
        let name = text("name", value)?.to_owned();
        if name.is_empty() {
            return Err(Problem::new(value.span(), "a field's name is empty"));
        }
        declared.push(field(name, section)?);
    }
    if declared.is_empty() {
        return Err(Problem::new(fields.span(), "fields declares no field"));
    }
    Ok(declared)
}

/// A type, with what belongs to it.
fn field(name: String, mut section: Section<'_>) -> Result<JsonField, Problem> {
    let value = section.required("type", "\"int64\"")?;
    let named = text("type", value)?;
    let kind = match named {
        "struct" => {
            let fields = section.required("fields", "[{ name = \"street\", type = \"string\" }]")?;
            let declared = declared(fields)?;
            for (at, field) in declared.iter().enumerate() {
                // As columns are told apart.
                if declared[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&field.name)) {
                    return Err(Problem::new(
                        fields.span(),
                        format!("there are two fields {:?}", field.name),
                    ));
                }
            }
            Kind::Struct(declared)
        }
        "list" => Kind::List(Box::new(within(&mut section, "items", JsonField::ELEMENT)?)),
        "map" => Kind::Map(Box::new(within(&mut section, "values", JsonField::VALUE)?)),
        _ => Kind::named(named).ok_or_else(|| {
            Problem::new(value.span(), format!("type: {named:?} is none of {}", Kind::NAMES.join(", ")))
        })?,
    };
    let is_required = match section.get("required").map(|value| (value.span(), value.get_ref())) {
        None => false,
        Some((_, DeValue::Boolean(is))) => *is,
        Some((span, _)) => return Err(Problem::new(span, "required takes true or false")),
    };
    section.end()?;
    Ok(JsonField { name, kind, is_required })
}

/// What a list or map holds.
fn within(section: &mut Section<'_>, key: &'static str, name: &str) -> Result<JsonField, Problem> {
    let value = section.required(key, "{ type = \"string\" }")?;
    let DeValue::Table(table) = value.get_ref() else {
        return Err(Problem::new(value.span(), format!("{key} is declared as {{ type = \"string\" }}")));
    };
    field(name.to_owned(), Section::new(&format!("the {key}' "), value.span(), table))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::settings::Settings;

    /// The columns of a value that is declared so, or what is wrong with it.
    fn check(declared: &str, expected: Expect) {
        let text = format!(
            "name = \"a\"\ntopics = [\"a\"]\n[value]\n{declared}\n[offline]\ntable = \"t\"\ncolumns = []\n"
        );
        expected.assert_eq(&match Settings::parse(&text) {
            Ok(settings) => {
                let offline = settings.offline.expect("it is declared");
                let fields = offline.line.shape.schema().fields().clone();
                fields.iter().map(|field| format!("{}: {}\n", field.name(), field.data_type())).collect()
            }
            Err(problem) => problem.to_string(),
        });
    }

    #[test]
    fn the_columns_of_avro_are_those_of_its_schema() {
        check(
            "format = \"avro\"\nschema = \"tests/data/order.avsc\"",
            expect![[r#"
            id: Int64
            city: Utf8
            state: Utf8
            price: Decimal128(6, 2)
            at: Timestamp(µs, "UTC")
            seen: Timestamp(µs, "UTC")
            day: Date32
            key: Utf8
            mac: Binary
            lines: List(non-null Struct("sku": non-null Int32, "weight": Float32), field: 'element')
            counts: Map("key_value": non-null Struct("key": non-null Utf8, "value": Float64), unsorted)
            ship: Struct("street": non-null Utf8, "lines": List(non-null Struct("sku": non-null Int32, "weight": Float32), field: 'element'))
            paid: Boolean
            raw: Binary
        "#]],
        );
        check(
            "format = \"avro\"",
            expect![[
                r#"line 4, column 10: format = "avro" needs a schema, as in schema = "orders.avsc", or a registry, as in registry = "http://HOST:8081""#
            ]],
        );
        check(
            "format = \"avro\"\nschema = \"tests/data/none.avsc\"",
            expect![
                "line 5, column 10: schema: tests/data/none.avsc: No such file or directory (os error 2)"
            ],
        );
        check(
            "format = \"avro\"\nschema = \"Cargo.toml\"",
            expect![
                "line 5, column 10: schema: Cargo.toml: it is no JSON: expected value at line 1 column 2"
            ],
        );
        check(
            "format = \"avro\"\nschema = \"tests/data/order.avsc\"\nfields = [{ name = \"id\", type = \"int64\" }]",
            expect![[r#"line 6, column 10: the schema says the fields; only format = "json" declares them"#]],
        );
        check(
            "format = \"bytes\"\nschema = \"tests/data/order.avsc\"",
            expect!["line 5, column 1: value.schema is not known here; format, fields are"],
        );
    }

    #[test]
    fn the_columns_of_protobuf_are_those_of_a_message() {
        let proto = |more: &str| format!("format = \"protobuf\"\n{more}");
        check(
            &proto("schema = \"tests/data/order.proto\"\nmessage = \"shop.Order\""),
            expect![[r#"
            id: Int64
            city: Utf8
            state: Utf8
            total: Decimal128(20, 0)
            at: Timestamp(µs, "UTC")
            lines: List(non-null Struct("sku": non-null Int32, "weight": Float32), field: 'element')
            counts: Map("key_value": non-null Struct("key": non-null Utf8, "value": non-null Float64), unsorted)
            by_number: Map("key_value": non-null Struct("key": non-null Utf8, "value": non-null Struct("sku": non-null Int32, "weight": Float32)), unsorted)
            card: Utf8
            cash: Struct("notes": non-null Int64)
            numbers: List(non-null Int32, field: 'element')
            paid: Boolean
            raw: Binary
            price: Float64
            weight: Float32
            unsigned: Int64
            zigzag: Int64
            fixed: Decimal128(20, 0)
            signed: Int32
            longer: Int64
        "#]],
        );
        check(
            &proto("schema = \"tests/data/order.proto\""),
            expect![
                "line 5, column 10: schema: tests/data/order.proto: it has several messages, and message says which: shop.Order, shop.Refund"
            ],
        );
        check(
            &proto("schema = \"tests/data/none.proto\""),
            expect![
                "line 5, column 10: schema: tests/data/none.proto: file 'tests/data/none.proto' is not in any include path"
            ],
        );
        check(
            &proto("schema = \"Cargo.toml\""),
            expect![
                "line 5, column 10: schema: Cargo.toml: Cargo.toml:1:1: expected 'enum', 'extend', 'import', 'message', 'option', 'service', 'package' or ';', but found '['"
            ],
        );
        check(
            &proto("message = \"shop.Order\""),
            expect![[
                r#"line 4, column 10: format = "protobuf" needs a schema, as in schema = "orders.proto", or a registry, as in registry = "http://HOST:8081""#
            ]],
        );
        check(
            &proto("schema = \"tests/data/order.proto\"\nmessage = \"shop.Order\"\nfields = []"),
            expect![[r#"line 7, column 10: the schema says the fields; only format = "json" declares them"#]],
        );
        check(
            "format = \"avro\"\nschema = \"tests/data/order.avsc\"\nmessage = \"a\"",
            expect![
                "line 6, column 1: value.message is not known here; format, schema, registry, registry_token, subject, version, fields are"
            ],
        );
    }

    #[test]
    fn a_registry_says_the_columns_unless_a_file_does() {
        let avro = |more: &str| format!("format = \"avro\"\n{more}");
        let registry = "registry = \"http://user:secret@registry:8081\"";
        // They are not known before the run asks.
        check(&avro(registry), expect![]);
        check(&avro(&format!("{registry}\nsubject = \"b\"\nversion = 3")), expect![]);
        check(
            &avro(&format!("{registry}\nschema = \"tests/data/none.avsc\"")),
            expect![
                "line 6, column 10: schema: tests/data/none.avsc: No such file or directory (os error 2)"
            ],
        );
        check(
            &avro(&format!("{registry}\nregistry_token = \"secret\"")),
            expect![
                "line 6, column 18: registry_token: the address has a user and a password, and a token goes in their place"
            ],
        );
        check(
            &avro("registry = \"https://user:secret@registry:8081\""),
            expect![
                "line 5, column 12: registry: https is not spoken; http://USER:PASSWORD@HOST:PORT is, as to a proxy beside the sink"
            ],
        );
        check(
            &avro("registry = \"http://registry:8081\"\nregistry_token = \"a\\nb\""),
            expect!["line 6, column 18: registry_token: it has characters that none has"],
        );
        check(
            &avro("schema = \"tests/data/order.avsc\"\nsubject = \"b\""),
            expect!["line 6, column 11: subject goes with a registry, and there is none"],
        );
        check(
            &avro("registry = \"http://registry:8081\"\nschema = \"tests/data/order.avsc\"\nversion = 2"),
            expect![
                "line 7, column 11: version says which schema has the columns, and schema says it already"
            ],
        );
        check(
            &avro("registry = \"http://registry:8081\"\nversion = 0"),
            expect!["line 6, column 11: version takes a whole number of at least 1"],
        );
        check(
            &avro("registry = \"http://registry:8081\"\nversion = 4294967296"),
            expect!["line 6, column 11: version takes a whole number of at most 4294967295"],
        );
        check(
            &avro(&format!("{registry}\nfields = []")),
            expect![[r#"line 6, column 10: the schema says the fields; only format = "json" declares them"#]],
        );
        let text = format!(
            "name = \"a\"\ntopics = [\"a\", \"b\"]\n[value]\n{}\n[offline]\ntable = \"t\"\n",
            avro(registry)
        );
        expect![[r#"line 5, column 12: with more than one topic it has to be said whose schema has the columns, as in subject = "orders-value", or schema = "orders.avsc""#]].assert_eq(&Settings::parse(&text).err().unwrap().to_string());
    }
}
