//! `ottla quota`: how much users, client ids and addresses may take.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use client::{Admin, EntityQuotas, Execution, QuotaMatch};
use serde_json::{Value, json};
use wire::Str;

use crate::connect::{ConnectArgs, key_value};
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};

/// Show and change how much users, client ids and addresses may take
#[derive(Debug, Args)]
pub(crate) struct QuotaArgs {
    #[command(subcommand)]
    command: QuotaCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// Show quotas; without any option, all of them
    #[command(
        visible_alias = "list",
        after_help = "\
TYPE is user, client-id or ip.

Examples:
  ottla quota describe
  ottla quota describe --name user=alice               # whatever alice has, together with a client id or not
  ottla quota describe --any client-id --strict        # quotas that belong to a client id and nothing else"
    )]
    Describe {
        /// Only quotas of this one (repeatable)
        #[arg(long, value_name = "TYPE=NAME", value_parser = key_value)]
        name: Vec<(String, String)>,
        /// Only quotas that are the default of this type (repeatable)
        #[arg(long, value_name = "TYPE")]
        default: Vec<String>,
        /// Only quotas of anybody of this type, its default too (repeatable)
        #[arg(long, value_name = "TYPE")]
        any: Vec<String>,
        /// Leave out quotas that have further types
        #[arg(long)]
        strict: bool,
    },
    /// Set and delete quotas
    #[command(after_help = "\
TYPE is user, client-id (or both together) or ip. A named one counts for more than a default, a user for more than
a client id. Who has no quota is not limited. Each broker measures what it serves.

Quotas of users and client ids:
  producer_byte_rate         bytes produced per second
  consumer_byte_rate         bytes fetched per second
  request_percentage         time spent on requests, in percent of one thread
  controller_mutation_rate   partitions created and deleted per second
Quotas of addresses:
  connection_creation_rate   connections per second

Examples:
  ottla quota alter --name client-id=reports --set consumer_byte_rate=10485760
  ottla quota alter --default user --set producer_byte_rate=1048576 --set request_percentage=50
  ottla quota alter --name user=alice --default client-id --delete producer_byte_rate
  ottla quota alter --default ip --set connection_creation_rate=20 --dry")]
    Alter {
        /// Whose quota it is (repeatable)
        #[arg(long, value_name = "TYPE=NAME", value_parser = key_value)]
        name: Vec<(String, String)>,
        /// The default of this type (repeatable)
        #[arg(long, value_name = "TYPE")]
        default: Vec<String>,
        /// Give a quota this value (repeatable)
        #[arg(short, long, value_name = "QUOTA=VALUE", value_parser = quota_value)]
        set: Vec<(String, f64)>,
        /// Remove a quota (repeatable)
        #[arg(short, long, value_name = "QUOTA")]
        delete: Vec<String>,
        /// Check the change without making it
        #[arg(long)]
        dry: bool,
    },
}

fn quota_value(text: &str) -> Result<(String, f64), String> {
    let (key, value) = key_value(text)?;
    let number = value.parse::<f64>().map_err(|_| format!("{value} is not a number"))?;
    Ok((key, number))
}

pub(crate) async fn run(args: QuotaArgs) -> Result<(), Failure> {
    let QuotaArgs { command, output, connect } = args;
    match command {
        QuotaCommand::Describe { name, default, any, strict } => {
            let named = name.into_iter().map(|(kind, name)| (kind, QuotaMatch::Named(Str::from(name))));
            let default = default.into_iter().map(|kind| (kind, QuotaMatch::Default));
            let any = any.into_iter().map(|kind| (kind, QuotaMatch::Any));
            let wanted: Vec<_> = named.chain(default).chain(any).collect();
            check_types(wanted.iter().map(|(kind, _)| kind))?;
            let wanted: Vec<_> = wanted.into_iter().map(|(kind, wanted)| (Str::from(kind), wanted)).collect();
            let admin = Admin::new(connect.cluster(|_| {}).await?);
            describe(output, &admin.describe_quotas(&wanted, strict).await?)
        }
        QuotaCommand::Alter { name, default, set, delete, dry } => {
            let named = name.into_iter().map(|(kind, name)| (kind, Some(Str::from(name))));
            let default = default.into_iter().map(|kind| (kind, None));
            let entity: Vec<_> = named.chain(default).collect();
            check_types(entity.iter().map(|(kind, _)| kind))?;
            if entity.is_empty() {
                return Err(Failure::usage("say whose quota it is: give --name or --default"));
            }
            let set = set.into_iter().map(|(key, value)| (Str::from(key), Some(value)));
            let changes: Vec<_> = set.chain(delete.into_iter().map(|key| (Str::from(key), None))).collect();
            if changes.is_empty() {
                return Err(Failure::usage("nothing to change: give --set or --delete"));
            }
            let entity: Vec<_> = entity.into_iter().map(|(kind, name)| (Str::from(kind), name)).collect();
            let admin = Admin::new(connect.cluster(|_| {}).await?);
            let execution = if dry { Execution::Validate } else { Execution::Apply };
            admin.alter_quotas(&entity, &changes, execution).await?;
            let done = if dry { "could be altered" } else { "altered" };
            output::print(&format!("{}  {done}\n", entity_text(&entity)))
        }
    }
}

const TYPES: [&str; 3] = ["user", "client-id", "ip"];

fn check_types<'a>(kinds: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for kind in kinds {
        if !TYPES.contains(&kind.as_str()) {
            return Err(Failure::usage(format!("{kind} has no quotas: the types are {}", TYPES.join(", "))));
        }
        if !seen.insert(kind) {
            return Err(Failure::usage(format!("{kind} is given more than once")));
        }
    }
    Ok(())
}

fn entity_text(entity: &[(Str, Option<Str>)]) -> String {
    let part = |(kind, name): &(Str, Option<Str>)| match name {
        Some(name) => format!("{kind}={name}"),
        None => format!("{kind}=(default)"),
    };
    entity.iter().map(part).collect::<Vec<_>>().join(" ")
}

fn describe(output: OutputArgs, all: &[EntityQuotas]) -> Result<(), Failure> {
    if output.style() == Style::Json {
        // What is no default has a name; a default has none.
        let entity = |entity: &[(Str, Option<Str>)]| {
            let parts = entity.iter().map(|(kind, name)| (kind.to_string(), json!(name.as_deref())));
            Value::Object(parts.collect())
        };
        let quotas = |quotas: &[(Str, f64)]| {
            Value::Object(quotas.iter().map(|(key, value)| (key.to_string(), number(*value))).collect())
        };
        let all = all.iter().map(|one| json!({"entity": entity(&one.entity), "quotas": quotas(&one.quotas)}));
        return output::print_json(&Value::Array(all.collect()));
    }
    if all.is_empty() {
        eprintln!("no quotas");
        return Ok(());
    }
    let mut report = Report::new(&["entity", "quota", "value"]);
    for EntityQuotas { entity, quotas } in all {
        for (key, value) in quotas {
            report.row(vec![entity_text(entity).into(), key.as_ref().into(), number(*value)]);
        }
    }
    output.print(&report)
}

/// Whole numbers without a fraction, as they were set.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
