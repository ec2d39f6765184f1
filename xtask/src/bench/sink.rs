//! `ottla sink` on a topic of JSON lines: what its process takes, beside a Python program that writes the same table.
//! What counts is the sink's own process: bytes of values per second of its CPU from its start to its end, its largest own
//! memory, and how old a record is when a reader of the near-real-time line's output has it. The broker is the same one for
//! all. A run that did not move every record counts for nothing. It never gives the sink a setting that is not said below.

use super::broker::Site;
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options, Peer, Scale};
use super::process::{self, MemoryWatch};
use super::service::Service;
use super::tools::{Target, Workshop, figure, output, parse_figures};
use crate::dice::Dice;
use crate::shell;
use crate::sink::ended;
use std::fmt;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PARTITIONS: u32 = 12;
const MANY_PARTITIONS: u32 = 200;
const VALUE_BYTES: u64 = 300;
const RECORDS: u64 = 2_000_000;
const RECORDS_QUICK: u64 = 200_000;
const SEED: u64 = 1;

/// What the process may use, times `offline.memory`: the setting is about what is in hand.
const MEMORY_SETTING_MIB: f64 = 128.0;
const MEMORY_SHARE_MAX: f64 = 2.0;
const JSON_GOAL: f64 = 60.0;
const BYTES_GOAL: f64 = 200.0;
const PYTHON_GOAL: f64 = 5.0;

const NEAR_RATE: u64 = 20_000;
const NEAR_SECONDS: u64 = 20;
const NEAR_SECONDS_QUICK: u64 = 5;
const NEAR_WARM_UP_SECONDS: u64 = 3;
const NEAR_GOAL_MS: f64 = 2_000.0;
/// How long its reader goes on after the last record was due.
const NEAR_BEHIND_MAX_SECONDS: u64 = 15;
/// For one program to come to its end.
const RUN_MAX: Duration = Duration::from_secs(300);

const JSON: &str = r#"[value]
format = "json"
fields = [
  { name = "id", type = "int64", required = true },
  { name = "user", type = "string" },
  { name = "city", type = "string" },
  { name = "price", type = "float64" },
  { name = "at", type = "timestamp" },
  { name = "note", type = "string" },
]
"#;
const BYTES: &str = "[value]\nformat = \"bytes\"\n";

const CITIES: [&str; 8] = ["Graz", "Oulu", "Porto", "Lyon", "Gdynia", "Bergen", "Cork", "Split"];
const WORDS: [&str; 24] = [
    "order", "paid", "by", "card", "and", "sent", "from", "the", "northern", "store", "to", "customer",
    "with", "two", "parcels", "one", "returned", "later", "because", "of", "a", "broken", "window", "frame",
];

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let site = Site::prepare(workshop, Peer::Ottla, Durability::PageCache)?;
    let (broker, _) = site.start()?;
    let is_quick = options.scale == Scale::Quick;
    let bench = Bench {
        workshop,
        pairs: options.pairs,
        service: broker.service(),
        records: if is_quick { RECORDS_QUICK } else { RECORDS },
        near_seconds: if is_quick { NEAR_SECONDS_QUICK } else { NEAR_SECONDS },
    };
    findings.add(&"sink, near line", bench.near());
    let target = bench.service.target("sink", PARTITIONS);
    bench.fill(target)?;
    findings.add(&"sink, throughput", bench.throughput(target));
    findings.add(&"sink, memory", bench.memory(target));
    Ok(())
}

struct Bench<'a> {
    workshop: &'a Workshop,
    pairs: usize,
    service: Service,
    records: u64,
    near_seconds: u64,
}

/// What one run to the topic's end gave.
struct Run {
    seconds: f64,
    cpu_seconds: f64,
    /// The largest, without what is mapped from files.
    own_mib: f64,
}

impl Bench<'_> {
    /// The bytes of all values.
    fn bytes(&self) -> u64 {
        self.records * VALUE_BYTES
    }

    fn fill(&self, target: Target<'_>) -> Result<(), String> {
        self.workshop.create(target)?;
        let mut produce = self.workshop.ottla();
        produce.args(["produce", target.topic, "-f", r"%p %v\n", "-b", target.bootstrap]);
        let failed = |e: &dyn fmt::Display| format!("filling {}: {e}", target.topic);
        let mut child =
            produce.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(|e| failed(&e))?;
        let mut lines = BufWriter::new(child.stdin.take().expect("standard input was piped"));
        let mut dice = Dice::new(SEED);
        let write = || {
            for number in 0..self.records {
                let partition = number % u64::from(target.partitions);
                writeln!(lines, "{partition} {}", value(number, &mut dice))?;
            }
            lines.flush()?;
            // The end of its input.
            drop(lines);
            Ok::<(), std::io::Error>(())
        };
        let written = write();
        // Why it took no more is told by its end.
        let status = ended(&mut child, shell::now() + RUN_MAX, "ottla produce")?;
        if !status.success() {
            return Err(failed(&status));
        }
        written.map_err(|e| failed(&e))
    }

    fn throughput(&self, target: Target<'_>) -> Result<Vec<Figure>, String> {
        let per_core = |name: &str, goal| Figure::new(Kind::SinkCpu, name, goal);
        let [mut json_cpu, mut bytes_cpu, mut cpu] = [
            per_core("JSON, six fields", Goal::AtLeast(JSON_GOAL)),
            per_core("bytes", Goal::AtLeast(BYTES_GOAL)),
            per_core("JSON, beside Python", Goal::ShareAtLeast(PYTHON_GOAL)),
        ];
        let [mut rate, mut bytes_rate] =
            ["JSON, beside Python", "bytes"].map(|name| Figure::new(Kind::SinkRate, name, Goal::Shown));
        let mut memory = Figure::new(Kind::SinkMemory, "JSON, 12 partitions, beside Python", Goal::Shown);
        let mb = self.bytes() as f64 / 1e6;
        for pair in 0..=self.pairs {
            let json = self.sink(target, JSON, "")?;
            let bytes = self.sink(target, BYTES, "")?;
            // The broker's first pages and the machine's are nobody's.
            if pair == 0 {
                continue;
            }
            let python = self.python(target)?;
            for (name, run) in [("Ottla, JSON", &json), ("Ottla, bytes", &bytes), ("Python, JSON", &python)] {
                let (per_core, rate) = (mb / run.cpu_seconds, mb / run.seconds);
                println!(
                    "{name}: {per_core:.1} MB per CPU s, {rate:.1} MB/s, {:.2} CPU s, {:.2} s, {:.0} MiB",
                    run.cpu_seconds, run.seconds, run.own_mib
                );
            }
            json_cpu.ours.0.push(mb / json.cpu_seconds);
            bytes_cpu.ours.0.push(mb / bytes.cpu_seconds);
            cpu.ours.0.push(mb / json.cpu_seconds);
            cpu.theirs.0.push(mb / python.cpu_seconds);
            rate.ours.0.push(mb / json.seconds);
            rate.theirs.0.push(mb / python.seconds);
            bytes_rate.ours.0.push(mb / bytes.seconds);
            memory.ours.0.push(json.own_mib);
            memory.theirs.0.push(python.own_mib);
        }
        Ok(vec![json_cpu, bytes_cpu, cpu, rate, bytes_rate, memory])
    }

    /// With a bound that all partitions share, and then the same records in many more of them.
    fn memory(&self, few: Target<'_>) -> Result<Vec<Figure>, String> {
        let setting = format!("memory = \"{MEMORY_SETTING_MIB}MiB\"\n");
        let many = self.service.target("sink-many", MANY_PARTITIONS);
        self.fill(many)?;
        let mut figures = Vec::new();
        for target in [few, many] {
            let name = format!("JSON, {} partitions, memory = {MEMORY_SETTING_MIB}MiB", target.partitions);
            let goal = Goal::AtMost(MEMORY_SETTING_MIB * MEMORY_SHARE_MAX);
            let mut memory = Figure::new(Kind::SinkMemory, &*name, goal);
            for _ in 0..self.pairs {
                let run = self.sink(target, JSON, &setting)?;
                println!("{name}: {:.0} MiB, {:.2} CPU s", run.own_mib, run.cpu_seconds);
                memory.ours.0.push(run.own_mib);
            }
            figures.push(memory);
        }
        Ok(figures)
    }

    /// One run of the sink over the whole topic, into a table and under a name of its own.
    fn sink(&self, target: Target<'_>, value: &str, offline: &str) -> Result<Run, String> {
        let home = self.home()?;
        let table = home.join("table");
        let lines = format!("{value}[offline]\ntable = {:?}\n{offline}", table.display().to_string());
        let mut sink = self.run_command(&home, target, &lines)?;
        sink.args(["--until-end", "--format", "json"]);
        let (run, printed) = self.to_its_end(sink, "ottla sink run", &home)?;
        let moved = printed.lines().filter_map(|line| number(line.trim(), "records")).sum::<f64>();
        self.check_whole("ottla sink run", moved)?;
        Ok(run)
    }

    fn python(&self, target: Target<'_>) -> Result<Run, String> {
        let home = self.home()?;
        let mut python = self.workshop.python_program("sink_baseline.py");
        python.args(["--bootstrap", target.bootstrap, "--partitions", &target.partitions.to_string()]);
        python.args(["--group", "sink-baseline", target.topic]).arg(home.join("files"));
        let (run, printed) = self.to_its_end(python, "sink_baseline.py", &home)?;
        self.check_whole("sink_baseline.py", figure(&parse_figures(&printed), "records")?)?;
        Ok(run)
    }

    fn check_whole(&self, name: &str, moved: f64) -> Result<(), String> {
        if moved == self.records as f64 {
            Ok(())
        } else {
            Err(format!("{name} has moved {moved} records of {}", self.records))
        }
    }

    /// Where one run has what it writes; the run before it has none any more.
    fn home(&self) -> Result<PathBuf, String> {
        let home = self.workshop.fresh_dir("sink")?;
        process::sync()?;
        process::touch_memory(self.workshop.scratch(), self.bytes())?;
        Ok(home)
    }

    /// `ottla sink run` by a declaration of these lines.
    fn run_command(&self, home: &Path, target: Target<'_>, lines: &str) -> Result<Command, String> {
        let path = home.join("sink.toml");
        let declaration = format!("name = \"bench\"\ntopics = [\"{}\"]\n{lines}", target.topic);
        fs::write(&path, declaration).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut sink = self.workshop.ottla();
        sink.args(["sink", "run", "-b", target.bootstrap, "--config"]).arg(path);
        Ok(sink)
    }

    fn to_its_end(&self, command: Command, name: &str, home: &Path) -> Result<(Run, String), String> {
        let before = process::children_cpu_seconds()?;
        let begin = shell::now();
        let mut program = self.begin(command, name, home)?;
        let watch = MemoryWatch::begin(program.child.id());
        let outcome = program.ended();
        let seconds = begin.elapsed().as_secs_f64();
        let cpu_seconds = process::children_cpu_seconds()? - before;
        let own_mib = watch.end()?.anon_mib;
        Ok((Run { seconds, cpu_seconds, own_mib }, outcome?))
    }

    /// What it complains about stays readable beside the other logs.
    fn begin(&self, mut command: Command, name: &str, home: &Path) -> Result<Program, String> {
        let said = home.join(format!("{}.said", name.replace(' ', "-")));
        let log = self.workshop.scratch().join("sink.log");
        let failed = |e: &dyn fmt::Display| format!("{name}: {e}");
        let out = fs::File::create(&said).map_err(|e| failed(&e))?;
        command.stdin(Stdio::null()).stdout(out).stderr(shell::append(&log)?);
        let child = command.spawn().map_err(|e| failed(&e))?;
        Ok(Program { name: name.to_owned(), child, said, log })
    }

    /// Stamped records through the line at a rate, and how old each is when a reader of committed records has it.
    fn near(&self) -> Result<Vec<Figure>, String> {
        let mut ages = [("p50", Goal::Shown), ("p99", Goal::AtMost(NEAR_GOAL_MS))]
            .map(|(name, goal)| Figure::new(Kind::SinkAge, format!("{name} at {NEAR_RATE}/s"), goal));
        for _ in 0..self.pairs {
            let input = self.service.target("near", PARTITIONS);
            let written = self.service.target("near-out", PARTITIONS);
            self.workshop.create(input)?;
            self.workshop.create(written)?;
            let measured = self.near_run(input, written);
            self.workshop.delete(input)?;
            self.workshop.delete(written)?;
            let found = measured?;
            for ((age, name), ms) in ages.iter_mut().zip(["p50", "p99"]).zip(found) {
                println!("near line, {name} at {NEAR_RATE}/s: {ms:.0} ms");
                age.ours.0.push(ms);
            }
        }
        Ok(ages.into())
    }

    fn near_run(&self, input: Target<'_>, written: Target<'_>) -> Result<[f64; 2], String> {
        let home = self.home()?;
        let mut sink =
            self.run_command(&home, input, &format!("[nearline]\ntopic = \"{}\"\n", written.topic))?;
        sink.args(["--line", "nearline"]);
        let mut sink = self.begin(sink, "ottla sink run", &home)?;
        // Once these are through, the line has its partitions and its transactions.
        let warm = self.stamp(input, "warm", NEAR_WARM_UP_SECONDS)?;
        let expected = ["--expect".to_owned(), format!("{warm}")];
        self.begin(self.reader(written, "warm", RUN_MAX.as_secs() / 2, &expected), "warm reader", &home)?
            .ended()?;

        let seconds = self.near_seconds + NEAR_BEHIND_MAX_SECONDS;
        let mut reader = self.begin(self.reader(written, "timed", seconds, &[]), "reader", &home)?;
        let sent = self.stamp(input, "timed", self.near_seconds)?;
        let printed = reader.ended()?;
        let read = audited(&printed, "", "records")?;
        if read != sent {
            return Err(format!("{read} of {sent} records came within {seconds} s"));
        }
        shell::signal(sink.child.id(), "TERM")?;
        sink.ended()?;
        Ok([audited(&printed, "delay_ms", "p50")?, audited(&printed, "delay_ms", "p99")?])
    }

    /// Sends stamped records at the rate and gives how many.
    fn stamp(&self, target: Target<'_>, run: &str, seconds: u64) -> Result<f64, String> {
        let mut audit = self.workshop.ottla();
        audit.args([
            "audit",
            "produce",
            target.topic,
            "-b",
            target.bootstrap,
            "--format",
            "json",
            "--run",
            run,
        ]);
        audit.args(["--rate", &NEAR_RATE.to_string(), "--keys", "1000", "--size", &VALUE_BYTES.to_string()]);
        let printed = output(audit.args(["--duration", &format!("{seconds}s")]))?;
        let sent = printed.lines().find_map(|line| number(line.trim(), "sequences"));
        sent.ok_or_else(|| format!("ottla audit produce printed no sequences:\n{printed}"))
    }

    fn reader(&self, target: Target<'_>, run: &str, seconds: u64, more: &[String]) -> Command {
        let mut audit = self.workshop.ottla();
        audit.args([
            "audit",
            "verify",
            target.topic,
            "-b",
            target.bootstrap,
            "--format",
            "json",
            "--run",
            run,
        ]);
        audit.args(["--live", "-o", "start", "--for", &format!("{seconds}s")]).args(more);
        audit.args(["-X", "isolation.level=read_committed"]);
        audit
    }
}

/// One that runs beside the bench; it is killed with the value.
struct Program {
    name: String,
    child: Child,
    said: PathBuf,
    log: PathBuf,
}

impl Program {
    /// Waits for its end; what it has said.
    fn ended(&mut self) -> Result<String, String> {
        let status = ended(&mut self.child, shell::now() + RUN_MAX, &self.name)?;
        if !status.success() {
            return Err(format!("{}: {status}, see {}", self.name, self.log.display()));
        }
        fs::read_to_string(&self.said).map_err(|e| format!("{}: {e}", self.said.display()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An order as a JSON object of six fields, of `VALUE_BYTES` bytes.
fn value(number: u64, dice: &mut Dice) -> String {
    let (user, city) = (dice.below(50_000), dice.pick(&CITIES));
    let (euros, cents) = (dice.below(500), dice.below(100));
    let [hour, minute, second, milli] = [24, 60, 60, 1000].map(|bound| dice.below(bound));
    let mut value = format!(
        r#"{{"id":{number},"user":"user-{user:05}","city":"{city}","price":{euros}.{cents:02},"at":"2024-05-01T{hour:02}:{minute:02}:{second:02}.{milli:03}Z","note":""#
    );
    let end = VALUE_BYTES as usize - "\"}".len();
    while value.len() < end {
        value += dice.pick(&WORDS);
        value.push(' ');
    }
    value.truncate(end);
    value + "\"}"
}

/// The number of the member `name`, if this line is it.
fn number(line: &str, name: &str) -> Option<f64> {
    let (found, value) = line.trim_end_matches(',').split_once("\": ")?;
    (found.trim_start_matches('"') == name).then(|| value.parse().ok())?
}

/// Of the JSON that `ottla audit verify` prints, a member a line, a number of the outermost object or of one that stands in it.
fn audited(printed: &str, object: &str, name: &str) -> Result<f64, String> {
    let mut within = "";
    let found = printed.lines().find_map(|line| {
        let indented = line.len() - line.trim_start().len();
        let line = line.trim();
        if indented == 2 {
            within = line.strip_suffix("\": {").unwrap_or_default().trim_start_matches('"');
        }
        let depth = if object.is_empty() { 2 } else { 4 };
        (indented == depth && within == object).then(|| number(line, name))?
    });
    found.ok_or_else(|| format!("ottla audit verify printed no {name}:\n{printed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_an_object_of_so_many_bytes() {
        let mut dice = Dice::new(SEED);
        for number in [0, 1_999_999] {
            let value = value(number, &mut dice);
            assert_eq!(value.len() as u64, VALUE_BYTES);
            assert!(value.starts_with(&format!("{{\"id\":{number},\"user\":\"user-")), "{value}");
            assert!(value.ends_with("\"}"), "{value}");
        }
    }

    #[test]
    fn the_delay_of_all_records_is_read_and_none_of_a_bucket() {
        let printed = r#"{
  "buckets": [
    {
      "delay_p99_ms": 1,
      "records": 2
    }
  ],
  "clean": true,
  "delay_ms": {
    "max": 2039,
    "p50": 1055,
    "p99": 2015
  },
  "lost": 0,
  "records": 4000
}"#;
        assert_eq!(audited(printed, "", "records"), Ok(4000.0));
        assert_eq!(audited(printed, "delay_ms", "p50"), Ok(1055.0));
        assert_eq!(audited(printed, "delay_ms", "p99"), Ok(2015.0));
        assert!(audited(printed, "", "p99").is_err());
    }
}
