//! The schema notation: one file per API or record, parsed into a small tree. `schema/README.md` is its manual.
//!
//! Invariant: a tree handed out is consistent: every type is defined in its file, ranges lie inside the ranges
//! around them, tags occur in flexible versions only. It never fills in facts that the file does not state.

use std::collections::BTreeMap;
use std::path::Path;

/// An inclusive range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

impl Versions {
    pub fn contains(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    fn within(self, outer: Versions) -> bool {
        outer.first <= self.first && self.last <= outer.last
    }

    fn intersect(self, other: Versions) -> Versions {
        Versions { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// `3`, `3+` or `3-7`; an open end ends where `outer` ends.
    fn parse(text: &str, outer: Versions) -> Result<Versions, String> {
        let number = |s: &str| s.parse::<i16>().map_err(|_| format!("not a version: {s:?}"));
        let versions = if let Some(first) = text.strip_suffix('+') {
            Versions { first: number(first)?, last: outer.last }
        } else if let Some((first, last)) = text.split_once('-') {
            Versions { first: number(first)?, last: number(last)? }
        } else {
            Versions { first: number(text)?, last: number(text)? }
        };
        if versions.first > versions.last {
            return Err(format!("empty version range {text:?}"));
        }
        Ok(versions)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Payload,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Result<Type, String> {
        Ok(match text {
            "bool" => Type::Bool,
            "int8" => Type::Int8,
            "int16" => Type::Int16,
            "uint16" => Type::Uint16,
            "int32" => Type::Int32,
            "uint32" => Type::Uint32,
            "int64" => Type::Int64,
            "float64" => Type::Float64,
            "uuid" => Type::Uuid,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "records" => Type::Records,
            "payload" => Type::Payload,
            _ => match text.strip_prefix("[]") {
                Some(item) => Type::Array(Box::new(Type::parse(item)?)),
                None if text.starts_with(|c: char| c.is_ascii_uppercase()) => Type::Struct(text.to_owned()),
                None => return Err(format!("unknown type {text:?}")),
            },
        })
    }

    /// The name of the struct this is, or is an array of.
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Type::Struct(name) => Some(name),
            Type::Array(item) => item.struct_name(),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    /// The versions in which the field is on the wire.
    pub versions: Versions,
    /// The versions in which it may be null.
    pub nullable: Option<Versions>,
    /// Kafka's default where it is not zero, empty or false; `null` for null.
    pub default: Option<String>,
    pub tag: Option<u32>,
    /// Whether fields of other versions have items of the same struct.
    pub is_shared: bool,
    /// The line as it stands in the file, for the generated documentation.
    pub notation: String,
    /// What follows `#`.
    pub doc: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Struct {
    pub name: String,
    pub versions: Versions,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub enum Kind {
    /// `request` and `response` are names of structs.
    Api { code: i16, name: String, request: String, response: String },
    /// `key` is Kafka's number for the record type, where it has one.
    Record { key: Option<i16>, name: String },
}

#[derive(Debug, Clone)]
pub struct Schema {
    /// The file's name without extension: the Rust module.
    pub module: String,
    pub kind: Kind,
    pub versions: Versions,
    /// The first version with compact lengths and tagged fields.
    pub flexible: Option<i16>,
    /// In the order of the file; a message before the structs inside it.
    pub structs: Vec<Struct>,
}

impl Schema {
    pub fn find(&self, name: &str) -> &Struct {
        self.structs.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("struct {name}"))
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|first| version >= first)
    }

    /// The names of the top-level messages.
    pub fn messages(&self) -> Vec<&str> {
        match &self.kind {
            Kind::Api { request, response, .. } => vec![request, response],
            Kind::Record { name, .. } => vec![name],
        }
    }
}

/// Every schema of a folder: APIs by code, then records by name.
pub fn read_folder(folder: &Path) -> Result<Vec<Schema>, String> {
    let mut schemas = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if !matches!(path.extension().and_then(|e| e.to_str()), Some("api" | "record")) {
            continue;
        }
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        schemas.push(parse(&module, &text).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    schemas.sort_by_key(|schema| match &schema.kind {
        Kind::Api { code, .. } => (0, *code, schema.module.clone()),
        Kind::Record { .. } => (1, 0, schema.module.clone()),
    });
    Ok(schemas)
}

/// One line that says something: its indentation in steps of two spaces, its text, its comment.
struct Line {
    number: usize,
    depth: usize,
    text: String,
    doc: Option<String>,
}

/// Parses one file; `module` is its name without extension.
pub fn parse(module: &str, text: &str) -> Result<Schema, String> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let (content, doc) = match raw.split_once('#') {
            Some((content, doc)) => (content, Some(doc.trim().to_owned())),
            None => (raw, None),
        };
        let body = content.trim();
        if body.is_empty() {
            continue;
        }
        let spaces = content.len() - content.trim_start().len();
        if spaces % 2 != 0 {
            return Err(format!("line {}: odd indentation", index + 1));
        }
        lines.push(Line { number: index + 1, depth: spaces / 2, text: body.to_owned(), doc });
    }
    let head = lines.first().ok_or("empty file")?;
    let words: Vec<&str> = head.text.split_whitespace().collect();
    let (head_words, ranges) = match words.as_slice() {
        ["api", code, name, ranges @ ..] => (("api", Some(*code), *name), ranges),
        ["record", name, ranges @ ..] if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
            (("record", None, *name), ranges)
        }
        ["record", key, name, ranges @ ..] => (("record", Some(*key), *name), ranges),
        _ => return Err("the first line is `api CODE Name VERSIONS` or `record [KEY] Name VERSIONS`".into()),
    };
    let all = Versions { first: 0, last: i16::MAX };
    let (versions, flexible) = match ranges {
        [versions] => (Versions::parse(versions, all)?, None),
        [versions, "flexible", from] => {
            (Versions::parse(versions, all)?, Some(Versions::parse(from, all)?.first))
        }
        _ => return Err("after the name: `VERSIONS [flexible FIRST+]`".into()),
    };
    let code = head_words.1.map(|code| code.parse::<i16>().map_err(|_| format!("not a number: {code:?}")));
    let name = head_words.2.to_owned();
    let mut parser = Parser { lines: &lines, at: 1, versions, flexible, structs: Vec::new() };
    let kind = if head_words.0 == "api" {
        let (request, response) = (format!("{name}Request"), format!("{name}Response"));
        parser.section("request", &request)?;
        parser.section("response", &response)?;
        Kind::Api { code: code.ok_or("an api has a code")??, name, request, response }
    } else {
        parser.structure(&name, versions, 1)?;
        Kind::Record { key: code.transpose()?, name }
    };
    if let Some(line) = parser.lines.get(parser.at) {
        return Err(format!("line {}: unexpected {:?}", line.number, line.text));
    }
    let schema = Schema { module: module.to_owned(), kind, versions, flexible, structs: parser.structs };
    check_types(&schema)?;
    Ok(schema)
}

struct Parser<'a> {
    lines: &'a [Line],
    at: usize,
    versions: Versions,
    flexible: Option<i16>,
    structs: Vec<Struct>,
}

impl Parser<'_> {
    fn section(&mut self, keyword: &str, name: &str) -> Result<(), String> {
        match self.lines.get(self.at) {
            Some(line) if line.depth == 0 && line.text == keyword => self.at += 1,
            _ => return Err(format!("`{keyword}` is missing")),
        }
        self.structure(name, self.versions, 1)
    }

    /// Reads the fields at `depth` into a struct, and the structs nested in them after it.
    fn structure(&mut self, name: &str, versions: Versions, depth: usize) -> Result<(), String> {
        if self.structs.iter().any(|s| s.name == name) {
            return Err(format!("struct {name} is defined twice"));
        }
        let place = self.structs.len();
        self.structs.push(Struct { name: name.to_owned(), versions, fields: Vec::new() });
        let mut tags = BTreeMap::new();
        while let Some(line) = self.lines.get(self.at).filter(|line| line.depth == depth) {
            let field = self.field(line, versions).map_err(|e| format!("line {}: {e}", line.number))?;
            if let Some(tag) = field.tag
                && let Some(other) = tags.insert(tag, field.name.clone())
            {
                return Err(format!("line {}: tag {tag} belongs to {other}", line.number));
            }
            self.at += 1;
            if let Some(deeper) = self.lines.get(self.at).filter(|line| line.depth > depth) {
                let name =
                    field.ty.struct_name().ok_or(format!("line {}: fields of what?", deeper.number))?;
                let versions = if field.is_shared { self.versions } else { field.versions };
                self.structure(name, versions, depth + 1)?;
            }
            self.structs[place].fields.push(field);
        }
        Ok(())
    }

    /// `name: type[?[versions]] [= default] [@versions] [tag N] [shared] [key] [ignorable]`
    fn field(&self, line: &Line, outer: Versions) -> Result<Field, String> {
        let (name, rest) = line.text.split_once(':').ok_or("a field is `name: type …`")?;
        let mut words = rest.split_whitespace();
        let type_word = words.next().ok_or("a field has a type")?;
        let (type_word, nullable) = match type_word.split_once('?') {
            Some((ty, versions)) => (ty, Some(versions)),
            None => (type_word, None),
        };
        let mut field = Field {
            name: name.to_owned(),
            ty: Type::parse(type_word)?,
            versions: outer,
            nullable: None,
            default: None,
            tag: None,
            is_shared: false,
            notation: line.text.split_whitespace().collect::<Vec<_>>().join(" "),
            doc: line.doc.clone(),
        };
        while let Some(word) = words.next() {
            match word {
                "=" => field.default = Some(words.next().ok_or("`=` wants a value")?.to_owned()),
                "tag" => {
                    let tag = words.next().and_then(|w| w.parse().ok()).ok_or("`tag` wants a number")?;
                    field.tag = Some(tag);
                }
                "shared" => field.is_shared = true,
                "key" | "ignorable" => {}
                _ => {
                    let range = word.strip_prefix('@').ok_or(format!("unexpected {word:?}"))?;
                    field.versions = Versions::parse(range, outer)?;
                }
            }
        }
        if !field.versions.within(outer) {
            return Err(format!("@ lies outside {}-{}", outer.first, outer.last));
        }
        field.nullable = match nullable {
            None => None,
            Some("") => Some(field.versions),
            Some(range) => Some(Versions::parse(range, field.versions)?.intersect(field.versions)),
        };
        if field.tag.is_some() && self.flexible.is_none_or(|first| field.versions.first < first) {
            return Err("a tag in a version that is not flexible".into());
        }
        Ok(field)
    }
}

fn check_types(schema: &Schema) -> Result<(), String> {
    for structure in &schema.structs {
        for field in &structure.fields {
            if let Some(name) = field.ty.struct_name() {
                let inner = schema.structs.iter().find(|s| s.name == name);
                let inner = inner.ok_or(format!("{}.{}: no struct {name}", structure.name, field.name))?;
                if !field.versions.within(inner.versions) {
                    return Err(format!("{}.{}: {name} has fewer versions", structure.name, field.name));
                }
            }
            if field.default.as_deref() == Some("null") && field.nullable.is_none() {
                return Err(format!("{}.{}: null by default but not nullable", structure.name, field.name));
            }
        }
    }
    Ok(())
}
