//! The menu of the boot loader on a disk, from whatever says what is in it.

use std::collections::BTreeMap;

use super::bls::{self, Entries};
use super::grub::{self, Devices, Loads, Location, SCRIPT_MAX, Script};
use super::volume::{Volume, Volumes};

/// Where GRUB's configuration is, on a filesystem of its own or below /boot, and the folder it counts
/// as its prefix.
const GRUB: [&str; 4] = ["/boot/grub", "/boot/grub2", "/grub", "/grub2"];
/// Vendors' folders of an EFI system partition.
const EFI: &str = "/EFI";

/// A menu.
pub struct Menu<'v> {
    volumes: &'v Volumes,
    /// Its entries.
    pub items: Vec<Item>,
    /// The one that is booted where nobody chooses.
    pub default: usize,
    script: Option<Script<'v, Volumes>>,
}

/// An entry.
pub struct Item {
    /// What names it beside its title.
    pub id: Option<String>,
    /// How the menu calls it.
    pub title: String,
    from: From,
}

enum From {
    /// GRUB's script.
    Grub(grub::Entry),
    /// A file.
    Bls {
        volume: usize,
        /// Where paths that are not found are looked for, too.
        folder: &'static str,
        entry: bls::Entry,
    },
}

impl Item {
    /// Whether it is meant by `wanted`.
    fn has_id(&self, wanted: &str) -> bool {
        let without = wanted.strip_suffix(".conf").unwrap_or(wanted);
        self.id.as_deref().is_some_and(|id| id == wanted || id == without)
    }

    /// What messages call it: its id, and the title where it is another.
    pub fn name(&self) -> String {
        match &self.id {
            Some(id) if *id != self.title => format!("{id} ({})", self.title),
            _ => self.title.clone(),
        }
    }
}

impl<'v> Menu<'v> {
    /// The one on these filesystems, if there is one: of Boot Loader Specification entries, or else of
    /// GRUB.
    ///
    /// # Errors
    /// What is wrong with GRUB's script.
    pub fn find(volumes: &'v Volumes) -> Result<Option<Menu<'v>>, String> {
        let entries = volumes.all.iter().enumerate();
        let entries = entries.filter_map(|(at, volume)| Some((at, Entries::find(volume)?))).next();
        let grub = run_grub(volumes);
        if let Some((volume, entries)) = entries {
            // A script that cannot be read sets nothing.
            return Ok(Some(Menu::of_bls(volumes, volume, entries, grub.ok().flatten())));
        }
        let Some(script) = grub? else { return Ok(None) };
        let default = grub::default_of(&script.entries, script.value("default"));
        let mut items = Vec::new();
        let mut chosen = 0;
        for (at, entry) in script.entries.iter().enumerate() {
            if Some(at) == default {
                chosen = items.len();
            }
            if !entry.is_submenu {
                let (id, title) = (entry.id.clone(), entry.title.clone());
                items.push(Item { id, title, from: From::Grub(entry.clone()) });
            }
        }
        let has_any = !items.is_empty();
        Ok(has_any.then_some(Menu { volumes, items, default: chosen, script: Some(script) }))
    }

    fn of_bls(
        volumes: &'v Volumes,
        volume: usize,
        entries: Entries,
        script: Option<Script<'v, Volumes>>,
    ) -> Menu<'v> {
        let preferred = entries.preferred();
        let folder = entries.folder;
        // Without GRUB a dollar sign is no more than that.
        let none = BTreeMap::new();
        let variables = script.as_ref().map(|script| &script.variables);
        let mut items = Vec::new();
        for entry in entries.all {
            let entry = match variables {
                Some(variables) => entry.expanded(variables),
                None => entry,
            };
            let (id, title) = (Some(entry.id.clone()), entry.title.clone());
            items.push(Item { id, title, from: From::Bls { volume, folder, entry } });
        }
        let saved = variables.unwrap_or(&none).get("default").map_or("", String::as_str);
        let by_grub = || {
            let by_name = items.iter().position(|item| item.has_id(saved) || item.title == saved);
            by_name.or_else(|| saved.parse().ok().filter(|at: &usize| *at < items.len()))
        };
        let default = preferred.or_else(by_grub).unwrap_or(0);
        Menu { volumes, items, default, script }
    }

    /// The entry with this id, or else with this title.
    pub fn named(&self, wanted: &str) -> Option<usize> {
        let by_id = self.items.iter().position(|item| item.has_id(wanted));
        by_id.or_else(|| self.items.iter().position(|item| item.title == wanted))
    }

    /// What an entry loads.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn load(&mut self, item: usize) -> Result<Loads, String> {
        match &self.items[item].from {
            From::Grub(entry) => match &mut self.script {
                Some(script) => script.load(entry),
                None => Err("its script is not there".to_owned()),
            },
            From::Bls { volume, folder, entry } => {
                let found = |path: &String| {
                    let below = format!("{folder}{path}");
                    let is_below = *folder != "/" && !self.volumes.all[*volume].has(path);
                    let path = if is_below { below } else { path.clone() };
                    Location { device: *volume, path }
                };
                Ok(Loads {
                    kernel: entry.linux.as_ref().map(found),
                    cmdline: entry.options.clone(),
                    initrds: entry.initrds.iter().map(found).collect(),
                    other: None,
                })
            }
        }
    }
}

/// Carries GRUB's script out, if there is one: the first that makes a menu, or leaves that to Boot
/// Loader Specification entries.
fn run_grub(volumes: &Volumes) -> Result<Option<Script<'_, Volumes>>, String> {
    let mut failed = None;
    for (at, volume) in volumes.all.iter().enumerate() {
        for prefix in GRUB.into_iter().map(str::to_owned).chain(vendors(volume)) {
            let Ok(Some(text)) = volume.text(&format!("{prefix}/grub.cfg"), SCRIPT_MAX) else {
                continue;
            };
            let mut script = Script::new(volumes, at, &prefix);
            match script.run(&text) {
                Ok(()) if !script.entries.is_empty() || script.has_bls => return Ok(Some(script)),
                Ok(()) => {}
                Err(cause) => {
                    failed = failed.or_else(|| Some(format!("{prefix}/grub.cfg: {cause}")));
                }
            }
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Folders of an EFI system partition that may hold a script which goes on elsewhere.
fn vendors(volume: &Volume) -> Vec<String> {
    let mut names = volume.files.list(EFI).unwrap_or_default();
    names.sort_unstable();
    names.truncate(32);
    names.into_iter().map(|name| format!("{EFI}/{name}")).collect()
}

impl Devices for Volumes {
    fn count(&self) -> usize {
        self.all.len()
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.all.iter().position(|volume| volume.uuid.eq_ignore_ascii_case(uuid))
    }

    fn by_label(&self, label: &str) -> Option<usize> {
        self.all.iter().position(|volume| volume.label == label)
    }

    fn by_number(&self, number: Option<u32>) -> Option<usize> {
        self.all.iter().position(|volume| volume.number == number)
    }

    fn has(&self, device: usize, path: &str) -> bool {
        self.all.get(device).is_some_and(|volume| volume.has(path))
    }

    fn text(&self, device: usize, path: &str) -> Option<String> {
        self.all.get(device)?.text(path, SCRIPT_MAX).ok().flatten()
    }
}
