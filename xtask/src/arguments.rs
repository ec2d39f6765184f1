//! The command line of a subcommand: `--name value` and `--flag`, nothing else.
//! Every option that is not asked for by name is refused, so a typo never runs the default.

/// Options of one subcommand, taken out one by one.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: Vec<String>,
}

impl Arguments {
    /// Starts over `args`; `--help` prints `usage` and gives `None`.
    pub(crate) fn new(args: &[String], usage: &str) -> Option<Self> {
        if args.iter().any(|arg| arg == "--help" || arg == "-h") {
            print!("{usage}");
            return None;
        }
        Some(Self { left: args.to_vec() })
    }

    /// Whether `--name` is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let at = self.left.iter().position(|arg| arg == name);
        at.map(|at| self.left.remove(at)).is_some()
    }

    /// The value behind `--name`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(at) = self.left.iter().position(|arg| arg == name) else { return Ok(None) };
        self.left.remove(at);
        if at == self.left.len() {
            return Err(format!("{name} wants a value"));
        }
        Ok(Some(self.left.remove(at)))
    }

    /// The number behind `--name`, or `default`.
    pub(crate) fn number(&mut self, name: &str, default: u64) -> Result<u64, String> {
        match self.value(name)? {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name} wants a number, not {text}")),
        }
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some(arg) => Err(format!("there is no option {arg}; see --help")),
        }
    }
}
