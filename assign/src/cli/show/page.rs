//! The page for people: sections of lines, each with a word for what it tells.

use sriov::facts::bars::{Bar, BarKind, BarOwner};
use sriov::facts::capabilities::Capabilities;
use sriov::facts::link::Link;

use super::*;
use crate::cli::output::text::counted;
use crate::topology::gigatransfers;
use crate::topology::groups::Verdict;

/// Width of the words at the left.
const WORDS: usize = 12;

/// A page in the making.
#[derive(Default)]
struct Page {
    lines: Vec<String>,
}

impl Page {
    fn section(&mut self, title: &str) {
        let bold = style::STRONG;
        self.lines.push(format!("\n{bold}{title}{bold:#}"));
    }

    /// A line, broken where the terminal ends; nothing for an empty text.
    fn line(&mut self, word: &str, text: impl AsRef<str>) {
        self.styled(word, text, style::PLAIN);
    }

    fn styled(&mut self, word: &str, text: impl AsRef<str>, style: anstyle::Style) {
        let text = output::text::printable(text.as_ref());
        if text.is_empty() {
            return;
        }
        let width = output::width(std::io::stdout()).map(usize::from);
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(WORDS + 4).max(20));
        let mut word = word;
        for line in output::text::wrap(&text, room) {
            let faint = style::FAINT;
            self.lines.push(format!("  {faint}{word:WORDS$}{faint:#}  {style}{line}{style:#}"));
            word = "";
        }
    }
}

/// Writes the page.
pub fn show(shown: &Shown) -> Result<(), Failure> {
    let function = shown.facts;
    let bold = style::STRONG;
    let name = output::text::printable(&shown.name);
    let mut page = Page { lines: vec![format!("{bold}{}{bold:#}  {name}", function.address)] };
    device(&mut page, shown);
    giving(&mut page, shown);
    hardware(&mut page, function);
    virtual_functions(&mut page, shown);
    page.lines.iter().try_for_each(|line| output::text_out(line))
}

fn device(page: &mut Page, shown: &Shown) {
    let function = shown.facts;
    page.section("Device");
    let (vendor, id) = (function.vendor, function.device);
    let (board_vendor, board) = (function.subsystem_vendor, function.subsystem_device);
    let mut ids = format!("{vendor:04x}:{id:04x}");
    if board_vendor != 0 {
        ids.push_str(&format!(", subsystem {board_vendor:04x}:{board:04x}"));
        ids.extend(names::subsystem(function).map(|name| format!(" ({name})")));
    }
    page.line("ids", format!("{ids}, revision {:02x}", function.revision));
    page.line("class", format!("{} ({:06x})", shown.class, function.class));
    page.line("driver", function.driver.as_deref().unwrap_or("none"));
    if let Some(driver) = &function.driver_override {
        page.line("", format!("only {driver} may bind it (driver_override)"));
    }
    if let Some(original) = shown.original {
        let before = original.binding.driver.as_deref().unwrap_or("no driver");
        page.line("", format!("{before} before `assign bind` gave it to {}", original.given_to));
    }
    if let Some(vf) = function.vf_of {
        page.line("VF", format!("number {} of {}", vf.index, vf.pf));
    }
    for (at, netdev) in shown.interfaces.iter().enumerate() {
        page.line(if at == 0 { "interface" } else { "" }, interface(netdev));
    }
    page.line("serial", function.serial.as_deref().unwrap_or_default());
    page.line("PCI root", shown.root.to_string());
    page.line("NUMA node", function.numa_node.map(|node| node.to_string()).unwrap_or_default());
    let uses = shown.uses.iter().filter(|used| used.kind != UseKind::Bridge);
    for (at, used) in uses.enumerate() {
        page.line(if at == 0 { "used for" } else { "" }, used.carried());
    }
}

/// What a policy can select it by, beside its name now.
fn interface(netdev: &Netdev) -> String {
    let mut text = netdev.name.clone();
    if !netdev.altnames.is_empty() {
        text.push_str(&format!(", also {}", netdev.altnames.join(", ")));
    }
    text.extend(netdev.permanent_mac.map(|mac| format!(", made with {mac}")));
    text
}

fn giving(page: &mut Page, shown: &Shown) {
    page.section("Giving it to a guest");
    let text = match shown.standing {
        Standing::Bridge => "never: other devices are reached through it".to_owned(),
        Standing::Guest { guest } => format!("guest {guest} has it"),
        Standing::Host { carries } => format!("no: the host needs it for {carries}"),
        Standing::Ready => "ready: it is bound for guests, and none has it".to_owned(),
        Standing::Free => "possible".to_owned(),
        Standing::Together { with } => format!("possible, together with {with}"),
        Standing::Blocked { why } => format!("no: {why}"),
    };
    page.styled("now", text, style::of(shown.standing));
    if let Some(lease) = shown.lease {
        let pool = lease.pool.as_ref().map(|pool| format!(", from pool {pool}"));
        page.line("lease", format!("process {}{}", lease.owner.pid, pool.unwrap_or_default()));
    }
    page.line("next", shown.next.as_deref().unwrap_or_default());
    for (at, NotFor { guest, because }) in shown.not_for.iter().enumerate() {
        let field = match because {
            Unpinned::Merge => "merge",
            Unpinned::Balloon => "balloon",
        };
        let text = format!("{guest}, whose memory it would pin: its document has `{field}: true`");
        page.line(if at == 0 { "not for" } else { "" }, text);
    }
    if let Some(group) = &shown.group {
        let own = shown.facts.address;
        let others = group.members.iter().filter(|member| member.address != own);
        let mut others: Vec<String> = others
            .map(|member| match &member.driver {
                Some(driver) => format!("{} ({driver})", member.address),
                None => member.address.to_string(),
            })
            .collect();
        others.extend(group.others.iter().cloned());
        page.line(
            "group",
            match others.is_empty() {
                true => format!("{}, alone", group.group),
                false => format!("{}, with {}", group.group, others.join(", ")),
            },
        );
        let several = group.members.len() > 1;
        if let (Verdict::No { why }, true) = (&group.verdict, several) {
            page.line("", format!("as a whole: cannot be given away: {why}"));
        }
    }
    for (at, port) in shown.path.iter().enumerate() {
        let word = if at == 0 { "behind" } else { "" };
        let text = format!("{} {}", port.address, port.kind);
        match port.acs {
            None => page.line(word, text),
            Some(acs) => {
                let style = if acs.isolates() { style::GOOD } else { style::WARNING };
                page.styled(word, format!("{text}, {}: {}", acs.label(), acs.meaning()), style);
            }
        }
    }
    let methods = shown.facts.reset_methods.join(", ");
    page.line("reset", if methods.is_empty() { "the kernel knows no way" } else { &methods });
}

fn hardware(page: &mut Page, function: &PciFunction) {
    page.section("Hardware");
    if let Some(link) = &function.link {
        let style = if link.is_reduced() { style::WARNING } else { style::PLAIN };
        page.styled("link", link_text(link), style);
    }
    page.line("power", function.power_state.as_deref().unwrap_or_default());
    for (at, bar) in function.bars.iter().enumerate() {
        page.line(if at == 0 { "memory" } else { "" }, bar_text(bar));
    }
    match &function.capabilities {
        Some(found) => capabilities(page, found),
        None => page.line("config", "its configuration space is not shown"),
    }
}

fn link_text(link: &Link) -> String {
    let text = |speed: Option<u32>, lanes: Option<u8>| match (speed, lanes) {
        (Some(speed), Some(lanes)) => {
            format!("{} on {}", gigatransfers(speed), counted(lanes.into(), "lane"))
        }
        (Some(speed), None) => gigatransfers(speed),
        _ => "down".to_owned(),
    };
    let now = text(link.speed, link.width);
    match (link.is_reduced(), link.max_speed) {
        (true, _) => format!("{now}: less than its {}", text(link.max_speed, link.max_width)),
        (false, Some(_)) if link.speed.is_none() => {
            format!("{now}; could be {}", text(link.max_speed, link.max_width))
        }
        _ => now,
    }
}

fn bar_text(bar: &Bar) -> String {
    let owner = match bar.owner {
        BarOwner::Function => format!("BAR {}", bar.index),
        BarOwner::Rom => "ROM".to_owned(),
        BarOwner::Vfs => format!("VF BAR {}", bar.index),
        BarOwner::Window => format!("window {}", bar.index),
    };
    let kind = match bar.kind {
        BarKind::Memory32 => "32 bits",
        BarKind::Memory64 => "64 bits",
        BarKind::Io => "I/O ports",
    };
    let prefetchable = if bar.prefetchable { ", prefetchable" } else { "" };
    format!("{owner}: {} at {:#x}, {kind}{prefetchable}", size(bar.size), bar.start)
}

fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &&(u32, &str)| bytes >> shift > 0 && bytes.is_multiple_of(1 << shift);
    match units.iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

fn capabilities(page: &mut Page, found: &Capabilities) {
    if found.dead {
        page.styled("", "it does not answer: gone, without power, or hanging", style::BAD);
    }
    let mut interrupts = Vec::new();
    interrupts.extend(
        found
            .msix
            .as_ref()
            .map(|msix| format!("MSI-X with {}", counted(msix.vectors.into(), "vector"))),
    );
    interrupts.extend(
        found.msi.as_ref().map(|msi| format!("MSI with {}", counted(msi.vectors.into(), "vector"))),
    );
    page.line("interrupts", interrupts.join(", "));
    let mut has = Vec::new();
    if found.pcie.as_ref().is_some_and(|pcie| pcie.flr) {
        has.push("function-level reset".to_owned());
    }
    if found.ari.is_some() {
        has.push("ARI".to_owned());
    }
    if let Some(ats) = &found.ats {
        has.push(format!("ATS ({})", if ats.enabled { "on" } else { "off" }));
    }
    for bar in &found.resizable_bars {
        has.push(format!("BAR {} resizable, now {}", bar.bar, size(bar.current)));
    }
    page.line("has", has.join(", "));
}

fn virtual_functions(page: &mut Page, shown: &Shown) {
    let Some(pf) = &shown.facts.sriov else { return };
    page.section("Virtual functions");
    page.line("count", format!("{} of {}", pf.present, pf.total));
    let takes =
        if pf.autoprobe { "the host's drivers take new ones" } else { "nobody takes new ones" };
    page.line("", takes);
    let vendor = shown.facts.vendor;
    if pf.vf_device != 0 {
        let name = names::of_ids(vendor, pf.vf_device);
        page.line("VF device", format!("{vendor:04x}:{:04x} ({name})", pf.vf_device));
    }
    if pf.offset != 0 {
        let text = format!("the first {} after it, each other {} on", pf.offset, pf.stride);
        page.line("routing IDs", format!("{text} (offset, stride)"));
    }
    for vf in &shown.vfs {
        let mut parts = vec![vf.address.to_string()];
        parts.push(vf.driver.unwrap_or("no driver").to_owned());
        let set = pf.vf_settings.get(&vf.index).map(|settings| settings.mac);
        // An address that nobody set is none.
        parts.extend(set.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string()));
        parts.extend(vf.interfaces.iter().cloned());
        parts.push(match vf.standing.detail() {
            Some(detail) => format!("{}: {detail}", vf.standing.word()),
            None => vf.standing.word().to_owned(),
        });
        page.styled(&format!("VF {}", vf.index), parts.join("  "), style::of(vf.standing));
    }
}
