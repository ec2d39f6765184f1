//! `.tools/`: the client libraries that the suites talk with, fetched once and kept until their manifests change.
//! Nothing is installed outside the repository, except Debian packages when run as root on Debian; what cannot be
//! installed is said plainly, with what to install, and the caller fails.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A client library and what it takes to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kit {
    Java,
    /// Kafka Streams; large for the sake of RocksDB.
    Streams,
    Python,
    Node,
    Go,
    Kcat,
    /// Redis and PostgreSQL, which tests start for themselves.
    Stores,
    /// A server of S3, which tests start for themselves.
    S3,
}

impl Kit {
    /// The programs that must be on the path, with the Debian package that brings each.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Kit::Java | Kit::Streams => &[("javac", "default-jdk-headless"), ("mvn", "maven")],
            Kit::Python => &[("python3", "python3-venv")],
            Kit::Node => &[("node", "nodejs"), ("npm", "npm")],
            Kit::Go | Kit::S3 => &[("go", "golang-go")],
            Kit::Kcat => &[("kcat", "kcat")],
            // The server's own programs are not on the path; this comes with them.
            Kit::Stores => &[("redis-server", "redis-server"), ("pg_ctlcluster", "postgresql")],
        }
    }
}

/// The installed kits.
#[derive(Debug)]
pub(crate) struct Toolbox {
    root: PathBuf,
    tools: PathBuf,
}

impl Toolbox {
    /// Installs the kits that are missing or out of date. All failures are collected into one message.
    pub(crate) fn install(kits: &[Kit]) -> Result<Self, String> {
        let root = shell::root();
        let tools = root.join(".tools");
        fs::create_dir_all(&tools).map_err(|error| format!("cannot create {}: {error}", tools.display()))?;
        let toolbox = Self { root, tools };
        let failures: Vec<String> = kits.iter().filter_map(|&kit| toolbox.ensure(kit).err()).collect();
        if failures.is_empty() {
            Ok(toolbox)
        } else {
            Err(format!("could not install:\n  {}", failures.join("\n  ")))
        }
    }

    fn ensure(&self, kit: Kit) -> Result<(), String> {
        for (program, package) in kit.programs() {
            if !shell::on_path(program) {
                self.install_package(program, package)?;
            }
        }
        match kit {
            Kit::Java => self.ensure_jvm("java"),
            Kit::Streams => self.ensure_jvm("streams"),
            Kit::Python => self.ensure_python(),
            Kit::Node => self.ensure_node(),
            Kit::Go => self.ensure_go(),
            Kit::S3 => self.ensure_s3(),
            Kit::Kcat | Kit::Stores => Ok(()),
        }
    }

    fn install_package(&self, program: &str, package: &str) -> Result<(), String> {
        let advice = format!("{program} is missing; install it (on Debian: apt-get install {package})");
        // The owner of our own process, without a system call of ours.
        let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if !root || !shell::on_path("apt-get") {
            return Err(advice);
        }
        println!("installing the Debian package {package} for {program}");
        let log = self.tools.join("apt.log");
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args([
            "install",
            "-y",
            "--no-install-recommends",
            package,
        ]);
        if shell::run_logged(&mut command, &log).is_err() {
            // A fresh image has no package lists.
            shell::run_logged(Command::new("apt-get").arg("update"), &log)
                .map_err(|error| format!("{advice}: {error}"))?;
            shell::run_logged(&mut command, &log).map_err(|error| format!("{advice}: {error}"))?;
        }
        Ok(())
    }

    /// Runs `install` unless the stamp says that it ran for exactly these files.
    fn once(
        &self,
        name: &str,
        made_from: &[PathBuf],
        install: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut wanted = String::new();
        for path in made_from {
            wanted += &fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let stamp = self.tools.join(format!("{name}.stamp"));
        if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
            return Ok(());
        }
        println!("installing the {name} clients into .tools/");
        let log = self.tools.join(format!("{name}.log"));
        let _ = fs::remove_file(&log);
        install(&log)?;
        fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
    }

    /// What stands in compat/`name`: the jars that its pom names, and its classes.
    fn ensure_jvm(&self, name: &str) -> Result<(), String> {
        let home = self.root.join("compat").join(name);
        let tools = self.tools.join(name);
        self.once(name, &[home.join("pom.xml")], |log| {
            let mut command = Command::new("mvn");
            command
                .current_dir(&home)
                .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
                .arg(format!("-DoutputDirectory={}", tools.join("lib").display()));
            shell::run_logged(&mut command, log)
        })?;
        let sources = files(&home.join("src"), "java")?;
        self.once(&format!("{name}-classes"), &sources, |log| {
            let mut command = Command::new("javac");
            command.arg("-cp").arg(tools.join("lib/*")).arg("-d").arg(tools.join("classes"));
            shell::run_logged(command.args(&sources), log)
        })
    }

    fn ensure_python(&self) -> Result<(), String> {
        let requirements = self.root.join("compat/python/requirements.txt");
        self.once("python", std::slice::from_ref(&requirements), |log| {
            let venv = self.tools.join("python");
            shell::run_logged(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), log)?;
            let mut command = Command::new(self.python());
            command.args(["-m", "pip", "install", "--disable-pip-version-check", "-r"]).arg(&requirements);
            shell::run_logged(&mut command, log)
        })
    }

    fn ensure_node(&self) -> Result<(), String> {
        let home = self.root.join("compat/node");
        let manifests = [home.join("package.json"), home.join("package-lock.json")];
        if !home.join("node_modules").is_dir() {
            let _ = fs::remove_file(self.tools.join("node.stamp"));
        }
        self.once("node", &manifests, |log| {
            shell::run_logged(Command::new("npm").current_dir(&home).arg("ci"), log)
        })
    }

    fn ensure_go(&self) -> Result<(), String> {
        let home = self.root.join("compat/go");
        let mut sources = vec![home.join("go.mod"), home.join("go.sum")];
        sources.extend(files(&home, "go")?);
        self.once("go", &sources, |log| {
            let mut command = Command::new("go");
            command.current_dir(&home).args(["build", "-o"]).arg(self.tools.join("go/")).arg("./cmd/...");
            fs::create_dir_all(self.tools.join("go"))
                .map_err(|error| format!("cannot create .tools/go: {error}"))?;
            shell::run_logged(&mut command, log)
        })
    }

    /// The server that compat/s3 names.
    fn ensure_s3(&self) -> Result<(), String> {
        let home = self.root.join("compat/s3");
        self.once("s3", &[home.join("go.mod"), home.join("go.sum")], |log| {
            let mut command = Command::new("go");
            command.current_dir(&home).args(["build", "-o"]).arg(self.tools.join("s3/")).arg("tool");
            fs::create_dir_all(self.tools.join("s3"))
                .map_err(|error| format!("cannot create .tools/s3: {error}"))?;
            shell::run_logged(&mut command, log)
        })
    }

    /// The directory of Apache Kafka's jars.
    pub(crate) fn jars(&self) -> PathBuf {
        self.tools.join("java/lib")
    }

    /// `java` with our classes and Apache Kafka's on the class path; the main class and its arguments are added.
    pub(crate) fn java(&self) -> Command {
        self.jvm("java", &["-Xmx1g", "-XX:+UseSerialGC"])
    }

    /// One of Apache Kafka's console tools by its main class. It lives for a second, in which the optimising compiler
    /// would only cost.
    pub(crate) fn console_tool(&self, class: &str) -> Command {
        let mut command = self.jvm("java", &["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg(class);
        command
    }

    /// A program of compat/streams. Several run at a time, and they are killed and started again.
    pub(crate) fn streams_program(&self, name: &str) -> Command {
        let mut command = self.jvm("streams", &["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(["streams.Main", name]);
        command
    }

    fn jvm(&self, kit: &str, options: &[&str]) -> Command {
        let mut command = Command::new("java");
        let log4j = self.root.join("compat/java/log4j2.properties");
        let tools = self.tools.join(kit);
        command
            .args(options)
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg("-cp")
            .arg(format!("{}:{}/*", tools.join("classes").display(), tools.join("lib").display()));
        command
    }

    /// The directory of `python3` with all that our programs import.
    pub(crate) fn python_bin(&self) -> PathBuf {
        self.tools.join("python/bin")
    }

    fn python(&self) -> PathBuf {
        self.python_bin().join("python")
    }

    /// A program of compat/python in its virtual environment.
    pub(crate) fn python_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.python());
        command.arg("-u").arg(self.root.join("compat/python").join(name));
        command
    }

    /// A program of compat/node.
    pub(crate) fn node_program(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(self.root.join("compat/node").join(name));
        command
    }

    /// A program of compat/go.
    pub(crate) fn go_program(&self, name: &str) -> Command {
        Command::new(self.tools.join("go").join(name))
    }
}

/// All files with this extension below a folder, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
