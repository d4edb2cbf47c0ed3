//! Carries out a GRUB script as far as its menu depends on it: variables, conditions, the search for
//! filesystems, and what an entry loads.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::parse::{Statement, parse};
use super::test::holds;
use super::words::{Piece, Word};
use super::{Devices, Entry, Loads, Location};

/// Most commands that are carried out.
const MOST_STEPS: usize = 100_000;
/// Most entries of a menu, with those of the menus below it.
const MOST_ENTRIES: usize = 512;
/// Most variables.
const MOST_VARIABLES: usize = 1024;
/// Longest word, and longest value of a variable, in bytes.
const LONGEST: usize = 4 << 10;
/// How often a script may go on in another.
const MOST_FILES: usize = 8;
/// Longest script in bytes.
pub const SCRIPT_MAX: u64 = 1 << 20;

/// What GRUB has before it reads its configuration, as far as anybody asks.
const FEATURES: &[(&str, &str)] = &[
    ("feature_menuentry_id", "y"),
    ("feature_platform_search_hint", "y"),
    ("feature_default_font_path", "y"),
    ("feature_timeout_style", "y"),
    ("feature_all_video_module", "y"),
    ("feature_200_final", "y"),
    ("grub_cpu", "x86_64"),
    ("grub_platform", "efi"),
    // Ubuntu's images for clouds try without an initial RAM disk first, write down that they have, and
    // find that if it fails. We write nothing, and have no second try.
    ("initrdfail", "1"),
];

/// Variables of GRUB's environment block that say what is to be done once, or count: they need somebody
/// who writes them.
const ONCE: &[&str] = &["next_entry", "prev_entry", "prev_saved_entry", "initrdfail", "recordfail"];

/// A script under way.
pub struct Script<'d, D: Devices> {
    devices: &'d D,
    /// Variables with their values.
    pub variables: BTreeMap<String, String>,
    /// The menu so far.
    pub entries: Vec<Entry>,
    /// Whether Boot Loader Specification entries belong to the menu.
    pub has_bls: bool,
    loads: Loads,
    steps: usize,
    files: usize,
    /// Entries above those that are read now, for a menu below.
    depth: usize,
}

impl<'d, D: Devices> Script<'d, D> {
    /// One whose folder is `prefix` on `device`.
    pub fn new(devices: &'d D, device: usize, prefix: &str) -> Self {
        let features =
            FEATURES.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut variables: BTreeMap<String, String> = features.collect();
        let root = super::device_name(device);
        variables.insert("prefix".to_owned(), format!("({root}){prefix}"));
        variables.insert("root".to_owned(), root);
        Script {
            devices,
            variables,
            entries: Vec::new(),
            has_bls: false,
            loads: Loads::default(),
            steps: 0,
            files: 0,
            depth: 0,
        }
    }

    /// Carries out `text`.
    ///
    /// # Errors
    /// It takes too long or too much.
    pub fn run(&mut self, text: &str) -> Result<(), String> {
        self.files += 1;
        if self.files > MOST_FILES {
            return Err("it goes on in too many other files".to_owned());
        }
        let list = parse(text)?;
        self.list(&list).map(drop)
    }

    /// What an entry of the menu loads, which is known when it is carried out.
    ///
    /// # Errors
    /// It takes too long or too much.
    pub fn load(&mut self, entry: &Entry) -> Result<Loads, String> {
        self.loads = Loads::default();
        self.list(&entry.body)?;
        Ok(std::mem::take(&mut self.loads))
    }

    /// A variable's value; empty where it has none.
    pub fn value(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// Whether the last one of these did what it was to do.
    fn list(&mut self, list: &[Statement]) -> Result<bool, String> {
        let mut done = true;
        for statement in list {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Err("it takes too many steps".to_owned());
            }
            match statement {
                Statement::Command(words) => {
                    let words = self.expand(words)?;
                    done = self.command(&words)?;
                }
                Statement::If { arms, otherwise } => {
                    let mut chosen = otherwise;
                    for (condition, body) in arms {
                        if self.list(condition)? {
                            chosen = body;
                            break;
                        }
                    }
                    done = self.list(chosen)?;
                }
                Statement::Entry { words, body } => self.entry(words, body)?,
            }
        }
        Ok(done)
    }

    /// `menuentry` or `submenu`, with its title and options.
    fn entry(&mut self, words: &[Word], body: &Rc<Vec<Statement>>) -> Result<(), String> {
        let words = self.expand(words)?;
        let (mut title, mut id) = (None, None);
        let mut rest = words.iter().skip(1);
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--id" => id = rest.next().cloned(),
                "--class" | "--users" | "--hotkey" | "--source" => drop(rest.next()),
                word if word.starts_with("--id=") => id = word.get(5..).map(str::to_owned),
                word if word.starts_with("--") => {}
                word => title = title.or_else(|| Some(word.to_owned())),
            }
        }
        let Some(title) = title else { return Ok(()) };
        let is_submenu = words.first().is_some_and(|word| word == "submenu");
        let at = self.entries.len();
        if at >= MOST_ENTRIES {
            return Err("its menu has too many entries".to_owned());
        }
        let depth = self.depth;
        self.entries.push(Entry { title, id, depth, is_submenu, body: body.clone() });
        if is_submenu {
            // What is set there is not for the others.
            let before = self.variables.clone();
            self.depth += 1;
            self.list(body)?;
            self.depth -= 1;
            self.variables = before;
        }
        Ok(())
    }

    fn command(&mut self, words: &[String]) -> Result<bool, String> {
        let Some((name, arguments)) = words.split_first() else { return Ok(true) };
        Ok(match name.as_str() {
            "set" => arguments.iter().all(|argument| self.assign(argument)),
            "unset" => {
                for name in arguments {
                    self.variables.remove(name);
                }
                true
            }
            "[" | "test" => {
                let end =
                    arguments.len() - usize::from(arguments.last().is_some_and(|end| end == "]"));
                let exists = |path: &str| {
                    self.location(path).is_some_and(|at| self.devices.has(at.device, &at.path))
                };
                holds(&arguments[..end], &exists)
            }
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" => {
                self.search(name, arguments)
            }
            "load_env" => {
                self.load_environment(arguments);
                true
            }
            "source" | "." => match arguments.first() {
                Some(path) => self.source(path)?,
                None => false,
            },
            // Its menu is instead of this one.
            "configfile" | "extract_entries_configfile" | "normal" => match arguments.first() {
                Some(path) => {
                    let before = std::mem::take(&mut self.entries);
                    let done = self.source(path)?;
                    if !done {
                        self.entries = before;
                    }
                    done
                }
                None => false,
            },
            "blscfg" => {
                self.has_bls = true;
                true
            }
            "linux" | "linuxefi" | "linux16" => self.linux(arguments)?,
            "initrd" | "initrdefi" | "initrd16" => self.initrd(arguments),
            "chainloader" | "multiboot" | "multiboot2" => {
                self.loads.other = Some(name.clone());
                true
            }
            "true" | "insmod" | "export" | "echo" | "save_env" => true,
            _ if name.contains('=') => self.assign(name),
            // What needs a terminal, a key or a font has none.
            _ => false,
        })
    }

    fn assign(&mut self, argument: &str) -> bool {
        let Some((name, value)) = argument.split_once('=') else { return true };
        let has_room = self.variables.len() < MOST_VARIABLES || self.variables.contains_key(name);
        if has_room && argument.len() <= LONGEST {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
        true
    }

    fn linux(&mut self, arguments: &[String]) -> Result<bool, String> {
        let Some((path, arguments)) = arguments.split_first() else { return Ok(false) };
        self.loads.kernel = self.location(path);
        self.loads.initrds.clear();
        let quoted = |word: &String| match word.contains([' ', '\t']) {
            true => format!("\"{word}\""),
            false => word.clone(),
        };
        self.loads.cmdline = arguments.iter().map(quoted).collect::<Vec<_>>().join(" ");
        Ok(self.loads.kernel.is_some())
    }

    fn initrd(&mut self, arguments: &[String]) -> bool {
        let paths = arguments.iter().filter(|argument| !argument.starts_with("--"));
        self.loads.initrds = paths.filter_map(|path| self.location(path)).take(16).collect();
        true
    }

    /// `search --fs-uuid --set=root UUID`, or `search.fs_uuid UUID root`.
    fn search(&mut self, name: &str, arguments: &[String]) -> bool {
        let mut by = match name {
            "search.fs_label" => "--label",
            "search.file" => "--file",
            _ => "--fs-uuid",
        };
        let (mut set, mut named) = (None, Vec::new());
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--fs-uuid" | "-u" => by = "--fs-uuid",
                "--label" | "--fs-label" | "-l" => by = "--label",
                "--file" | "-f" => by = "--file",
                "--set" | "-s" => set = Some("root".to_owned()),
                "--hint" => drop(rest.next()),
                other => match (other.strip_prefix("--set="), other.starts_with('-')) {
                    (Some(variable), _) => set = Some(variable.to_owned()),
                    (None, true) => {}
                    (None, false) => named.push(other),
                },
            }
        }
        let Some((what, others)) = named.split_first() else { return false };
        let found = match by {
            "--label" => self.devices.by_label(what),
            "--file" => (0..self.devices.count()).find(|device| self.devices.has(*device, what)),
            _ => self.devices.by_uuid(what),
        };
        let Some(found) = found else { return false };
        if name != "search" {
            set = others.first().map(|variable| (*variable).to_owned());
        }
        if let Some(variable) = set {
            self.assign(&format!("{variable}={}", super::device_name(found)));
        }
        true
    }

    /// Variables of the environment block: those that are named, or all.
    fn load_environment(&mut self, arguments: &[String]) {
        let path = match arguments {
            [flag, path, ..] if flag == "--file" || flag == "-f" => path.clone(),
            _ => format!("{}/grubenv", self.value("prefix")),
        };
        let Some(text) = self.location(&path).and_then(|at| self.devices.text(at.device, &at.path))
        else {
            return;
        };
        for (name, value) in super::environment(&text) {
            if !ONCE.contains(&name.as_str()) {
                self.assign(&format!("{name}={value}"));
            }
        }
    }

    fn source(&mut self, path: &str) -> Result<bool, String> {
        let text = self.location(path).and_then(|at| self.devices.text(at.device, &at.path));
        let Some(text) = text else { return Ok(false) };
        self.run(&text)?;
        Ok(true)
    }

    /// What a path leads to: `(hd0,gpt2)/boot/vmlinuz`, or one on the root device.
    fn location(&self, path: &str) -> Option<Location> {
        let (device, path) = match path.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?,
            None => (self.value("root"), path),
        };
        Some(Location { device: super::device(self.devices, device)?, path: path.to_owned() })
    }

    fn expand(&self, words: &[Word]) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for word in words {
            let mut text = String::new();
            let mut is_one = word.is_quoted;
            for piece in &word.pieces {
                let (value, splits) = match piece {
                    Piece::Text(text) => (text.as_str(), false),
                    Piece::Variable { name, is_quoted } => (self.value(name), !is_quoted),
                };
                if !splits {
                    text += value;
                    is_one = true;
                } else {
                    // White space in it ends the word.
                    let mut parts = value.split([' ', '\t', '\n']);
                    text += parts.next().unwrap_or_default();
                    for part in parts {
                        if !text.is_empty() {
                            all.push(std::mem::take(&mut text));
                        }
                        text += part;
                    }
                }
                if text.len() > LONGEST || all.len() > LONGEST {
                    return Err("a word in it is too long".to_owned());
                }
            }
            if is_one || !text.is_empty() {
                all.push(text);
            }
        }
        Ok(all)
    }
}
