//! An event as a line for people: time, kind, device, and what is worth knowing, the most
//! important first, since a narrow terminal cuts off the rest.

use anstyle::{AnsiColor, Style};
use sriov::VfRef;
use sriov::watch::{Description, Disk, DriverChange, HostEvent, Source, Stage, VfioFile, What};

use crate::visible::visible;

/// Widths of the kind and device columns; domains of more than four digits are rare.
const KIND: usize = 17;
const DEVICE: usize = 12;

/// The line, cut to the terminal's width where there is one.
pub fn text(time: String, event: &HostEvent, guest: Option<&str>, width: Option<u16>) -> String {
    let Phrase { kind, color, mut parts } = phrase(event);
    parts.splice(0..0, guest.map(|guest| format!("guest {guest}")));
    let device = match event.device {
        Some(device) => device.to_string(),
        None => "-".to_owned(),
    };
    parts.extend(event.vf_of.map(|VfRef { pf, index }| format!("VF {index} of {pf}")));
    if let What::DeviceAdded(device) | What::DeviceRemoved(device) = &event.what {
        parts.push(device.name.clone());
    }
    let detail = visible(&parts.join(", "));
    let before = format!("{time}  {kind:KIND$}  {device:DEVICE$}  ");
    let room = width.map(|width| usize::from(width).saturating_sub(before.chars().count()));
    let detail = match room {
        Some(room) if detail.chars().count() > room => {
            let kept: String = detail.chars().take(room.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
        _ => detail,
    };
    let style = Style::new().fg_color(color.map(Into::into));
    let line = format!("{time}  {style}{kind:KIND$}{style:#}  {device:DEVICE$}  {detail}");
    line.trim_end().to_owned()
}

struct Phrase {
    kind: &'static str,
    color: Option<AnsiColor>,
    parts: Vec<String>,
}

fn phrase(event: &HostEvent) -> Phrase {
    let (come, gone, bad) = (Some(AnsiColor::Green), Some(AnsiColor::Yellow), Some(AnsiColor::Red));
    let initial = event.source == Source::Initial;
    let (kind, color, parts) = match &event.what {
        What::DeviceAdded(device) if initial => ("device", None, driver(device)),
        What::DeviceAdded(device) => ("device-added", come, driver(device)),
        What::DeviceRemoved(device) => ("device-removed", gone, driver(device)),
        What::Bound(change) => ("bound", come, vec![drivers(change)]),
        What::Unbound(change) => ("unbound", gone, vec![drivers(change)]),
        What::VfsChanged { from, to } => {
            ("vfs-changed", if to > from { come } else { gone }, vec![format!("{from} → {to}")])
        }
        What::Recovery { stage: Stage::Begun } => {
            ("recovery", bad, vec!["from a PCIe error: begun".to_owned()])
        }
        What::Recovery { stage: Stage::Succeeded } => {
            ("recovery", come, vec!["from a PCIe error: succeeded".to_owned()])
        }
        What::Recovery { stage: Stage::Failed } => {
            ("recovery", bad, vec!["from a PCIe error: failed, the device is lost".to_owned()])
        }
        What::DmaFault(blocked) => ("dma-fault", bad, vec![blocked.to_string()]),
        What::InterfaceAdded(netdev) if initial => {
            ("interface", None, vec![netdev.interface.clone()])
        }
        What::InterfaceAdded(netdev) => ("interface-added", come, vec![netdev.interface.clone()]),
        What::InterfaceRemoved(netdev) => {
            ("interface-removed", gone, vec![netdev.interface.clone()])
        }
        What::InterfaceRenamed { from, to, .. } => {
            ("interface-renamed", None, vec![format!("{from} → {to}")])
        }
        What::DiskAdded(disk) if initial => ("disk", None, disk_parts(disk)),
        What::DiskAdded(disk) => ("disk-added", come, disk_parts(disk)),
        What::DiskRemoved(disk) => ("disk-removed", gone, disk_parts(disk)),
        What::VfioAdded(file) if initial => ("vfio", None, vfio_parts(file)),
        What::VfioAdded(file) => ("vfio-added", come, vfio_parts(file)),
        What::VfioRemoved(file) => ("vfio-removed", gone, vfio_parts(file)),
        What::Following { udev: true } => ("following", None, vec!["udev's events".to_owned()]),
        What::Following { udev: false } => {
            ("following", None, vec!["the kernel's events (no udevd runs)".to_owned()])
        }
        What::EventsLost { cause } => ("events-lost", bad, vec![cause.clone()]),
    };
    Phrase { kind, color, parts }
}

fn driver(device: &Description) -> Vec<String> {
    device.driver.iter().cloned().collect()
}

fn drivers(change: &DriverChange) -> String {
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(driver)) => driver.clone(),
        (Some(driver), None) => format!("{driver} → no driver"),
        (None, None) => "no driver".to_owned(),
    }
}

fn disk_parts(disk: &Disk) -> Vec<String> {
    let mut parts = vec![disk.disk.clone()];
    parts.extend(disk.partition_of.iter().map(|whole| format!("partition of {whole}")));
    parts.extend(several(&disk.devices));
    parts
}

fn vfio_parts(file: &VfioFile) -> Vec<String> {
    let mut parts = vec![format!("/dev/{}", file.file)];
    parts.extend(several(&file.devices));
    parts
}

/// One device has a column of its own.
fn several(devices: &[sriov::PciAddress]) -> Option<String> {
    let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
    (names.len() > 1).then(|| names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(event: &HostEvent, width: Option<u16>) -> String {
        anstream::adapter::strip_str(&text("18:54:25.123".to_owned(), event, None, width))
            .to_string()
    }

    #[test]
    fn a_line_shows_the_important_first_and_fits() {
        let pf = "0000:01:00.0".parse().expect("an address");
        let mut event = HostEvent {
            source: Source::Kernel,
            device: "0000:01:10.0".parse().ok(),
            vf_of: Some(VfRef { pf, index: 0 }),
            what: What::Bound(DriverChange {
                from: Some("igbvf".to_owned()),
                to: Some("vfio-pci".to_owned()),
            }),
        };
        assert_eq!(
            plain(&event, None),
            "18:54:25.123  bound              0000:01:10.0  igbvf → vfio-pci, VF 0 of 0000:01:00.0"
        );
        let narrow = plain(&event, Some(64));
        assert!(narrow.chars().count() <= 64, "{narrow}");
        assert!(narrow.ends_with("igbvf → vfio-pci…"), "{narrow}");

        // A name that came from elsewhere cannot move the cursor.
        event.what = What::EventsLost { cause: "\u{1b}[2J".to_owned() };
        assert!(!plain(&event, None).contains('\u{1b}'));
    }
}
