//! `ottla dev --sink`: a sink beside the broker, in the same process, so that one command is a place to try things.
//!
//! It is the sink that `ottla sink run` is, with the broker's own address in place of the declared one. What it reads and writes is made if
//! it is not there, as nobody had the time to make it before. It ends before the broker does, with what it has in hand committed.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Admin, Cluster, Error, Execution, NewTopic, Options, TokioEnvironment};
use sink::{LocalFiles, Settings, Until};
use wire::Str;

use crate::failure::Failure;
use crate::output;
use crate::sink::declared;
use crate::sink_running::host_name;

/// For topics that were made to be known.
const SHOWN_MAX: Duration = Duration::from_secs(10);

/// Runs a sink of this broker until `stop`.
pub(crate) async fn run(
    settings: &Settings,
    broker: SocketAddr,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut options = Options::default();
    declared(settings, &mut options);
    options.set("bootstrap.servers", &broker.to_string())?;
    options.set("allow.auto.create.topics", "false")?;
    options.group_instance_id.get_or_insert_with(host_name);
    let environment = Arc::new(TokioEnvironment);
    let made = make_topics(settings, &Cluster::new(options.clone(), environment.clone())?).await?;
    let made = match made.is_empty() {
        true => String::new(),
        false => format!(", and has made {}", made.join(", ")),
    };
    output::print(&format!("\nThe sink {} runs beside it{made}.\n", settings.name))?;
    sink::run(settings, options, environment, Arc::new(LocalFiles), Until::Stopped, stop).await?;
    Ok(())
}

/// Makes the topics that are not there; the output of the near-real-time line with as many partitions as the inputs have at most.
async fn make_topics(settings: &Settings, cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let admin = Admin::new(cluster.clone());
    let mut wanted: Vec<Str> = settings.topics.clone();
    wanted.extend(settings.dead_letters.iter().map(|letters| letters.topic.clone()));
    let mut made = create(&admin, &missing(&admin, &wanted).await?, None).await?;
    if let Some(nearline) = &settings.nearline {
        let described = admin.describe_topics(&settings.topics).await?;
        let counts = described.into_iter().map(|(_, topic)| topic.map(|topic| topic.partitions.len()));
        let most = counts.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        let partitions = most.and_then(|most| i32::try_from(most).ok());
        let output = std::slice::from_ref(&nearline.topic);
        made.extend(create(&admin, &missing(&admin, output).await?, partitions).await?);
    }
    Ok(made)
}

async fn missing(admin: &Admin, wanted: &[Str]) -> Result<BTreeSet<Str>, Error> {
    let mut missing = BTreeSet::new();
    for (name, described) in admin.describe_topics(wanted).await? {
        match described {
            Ok(_) => {}
            Err(Error::UnknownTopic(_)) => {
                missing.insert(name);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

async fn create(admin: &Admin, names: &BTreeSet<Str>, partitions: Option<i32>) -> Result<Vec<String>, Error> {
    let new = |name: &Str| NewTopic { name: name.clone(), partitions, replicas: None, configs: Vec::new() };
    let topics: Vec<_> = names.iter().map(new).collect();
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    for (_, created) in admin.create_topics(&topics, Execution::Apply).await? {
        created?;
    }
    let names: Vec<_> = names.iter().cloned().collect();
    // Were one of them not shown by then, the sink says so.
    admin.await_topics(&names, SHOWN_MAX, |topic| topic.is_some()).await?;
    Ok(names.iter().map(ToString::to_string).collect())
}
