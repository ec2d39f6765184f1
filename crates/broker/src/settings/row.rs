//! What one row of the settings table says: key, type, bounds, scope, importance, document sentence.
//! Every part that needs to know a setting (parser, DescribeConfigs, the listing, the reference page) reads this and
//! keeps no list of its own. It never holds a value: values live in layers (see `layers`).

use std::fmt;

use super::value::{Value, Violation};

/// A configuration's type as DescribeConfigs reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// Free text.
    String,
    /// 32-bit integer.
    Int,
    /// 16-bit integer.
    Short,
    /// 64-bit integer.
    Long,
    /// Floating point number.
    Double,
    /// Texts separated by commas.
    List,
    /// A secret: never shown, described with a null value.
    Password,
}

impl Kind {
    /// The number that stands for this type in a DescribeConfigs response (KIP-569).
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Password => 9,
        }
    }

    /// Kafka's name of the type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Short => "SHORT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
            Kind::Password => "PASSWORD",
        }
    }
}

/// Which values of the type are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allowed {
    /// Every value of the type.
    Any,
    /// A number not below this one.
    AtLeast(i64),
    /// A number within these, both included.
    Between(i64, i64),
    /// A number within these, or -1 for "the codec's own default".
    BetweenOrMinusOne(i64, i64),
    /// One of these words; for a list, each of its items.
    OneOf(&'static [&'static str]),
    /// A list with at least one item, no item empty.
    NotEmpty,
    /// `*`, or replicas as `partition:broker,…` (throttled replication).
    ThrottledReplicas,
    /// `address:count,…`, or nothing.
    PerAddress,
    /// `selector=regular expression,…`, or nothing (client metrics).
    ClientMatch,
    /// `latest`, `earliest`, or `by_duration:` and an ISO 8601 duration.
    OffsetReset,
}

/// Where a setting can be set and when a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Read once at start.
    ReadOnly,
    /// Dynamic, for one broker only.
    PerBroker,
    /// Dynamic, for one broker or as the default of all of them.
    ClusterWide,
    /// Dynamic, for one topic.
    Topic,
    /// Dynamic, for one group.
    Group,
    /// Dynamic, for one subscription to client metrics.
    ClientMetrics,
}

impl Scope {
    /// Whether the admin protocol may change it while the broker runs.
    #[must_use]
    pub fn is_dynamic(self) -> bool {
        self != Scope::ReadOnly
    }

    /// The word the reference page uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scope::ReadOnly => "read-only",
            Scope::PerBroker => "per-broker",
            Scope::ClusterWide => "cluster-wide",
            Scope::Topic => "topic",
            Scope::Group => "group",
            Scope::ClientMetrics => "client metrics",
        }
    }
}

/// How much a setting matters to most people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Think about it before going live.
    High,
    /// Worth knowing.
    Medium,
    /// Rarely touched.
    Low,
}

impl Importance {
    /// The word the reference page uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Importance::High => "high",
            Importance::Medium => "medium",
            Importance::Low => "low",
        }
    }
}

/// Whether a value makes a difference in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Honoured,
    /// Checked, stored and described, but nothing reads it until the named part exists.
    Awaits(&'static str),
    /// Checked, stored and described, but nothing reads it, for this reason.
    Inert(&'static str),
}

/// A broker setting that gives a topic setting its value when the topic itself does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// The broker's key.
    pub key: &'static str,
    /// Milliseconds per unit of the broker's key where the two differ, else 1.
    pub factor: i64,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Kafka's key.
    pub key: &'static str,
    /// The field that holds its value.
    pub field: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its bounds.
    pub allowed: Allowed,
    /// The default in the form a properties file would hold; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Where it can be set.
    pub scope: Scope,
    /// How much it matters.
    pub importance: Importance,
    /// Whether it makes a difference yet.
    pub effect: Effect,
    /// For a topic's setting: the broker settings behind it, first one that is set wins.
    pub synonyms: &'static [Synonym],
    /// What it does, in one or two sentences.
    pub doc: &'static str,
}

impl Setting {
    /// Whether its value must never be shown.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Parses and checks a value written as text.
    pub fn parse(&self, text: &str) -> Result<Value, Violation> {
        let value = Value::parse(self.kind, text)?;
        self.allowed.check(&value)?;
        Ok(value)
    }

    /// What it does, what it inherits, and whether it does it yet.
    #[must_use]
    pub fn documentation(&self) -> String {
        let mut text = self.doc.trim().to_owned();
        if !self.synonyms.is_empty() {
            let keys: Vec<String> =
                self.synonyms.iter().map(|synonym| format!("`{}`", synonym.key)).collect();
            text += &format!(" Inherited from {}.", keys.join(", "));
        }
        match self.effect {
            Effect::Honoured => {}
            Effect::Awaits(part) => {
                text += &format!(" *No effect yet: {part} is not available in this version.*")
            }
            Effect::Inert(reason) => text += &format!(" *No effect: {reason}.*"),
        }
        text
    }

    /// The default as a value.
    ///
    /// # Panics
    /// When the table itself is wrong; a test parses every default.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        self.default.map(|text| self.parse(text).expect("every default in the table is valid"))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Any => write!(f, "any"),
            Allowed::AtLeast(low) => write!(f, "at least {low}"),
            Allowed::Between(low, high) => write!(f, "{low} to {high}"),
            Allowed::BetweenOrMinusOne(low, high) => write!(f, "{low} to {high}, or -1"),
            Allowed::OneOf(words) => write!(f, "{}", words.join(", ")),
            Allowed::NotEmpty => write!(f, "not empty"),
            Allowed::ThrottledReplicas => write!(f, "* or partition:broker,…"),
            Allowed::PerAddress => write!(f, "address:count,…"),
            Allowed::ClientMatch => write!(f, "selector=pattern,…"),
            Allowed::OffsetReset => write!(f, "latest, earliest, by_duration:PnDTnHnMn.nS"),
        }
    }
}
