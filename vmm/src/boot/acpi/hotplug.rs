//! What the tables say of what happens while the guest runs: a device object for each PCI slot, which
//! can be ejected, the power button, and the generic event device, whose interrupt has the guest look
//! at the registers of [`crate::devices::hotplug`] and [`crate::devices::power`] (ACPI 6.5, 5.6.9, 6.3
//! and 4.8.2.2).

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule,
    If, Interrupt, Local, Method, MethodCall, Name, Notify, ONE, OpRegion, OpRegionSpace, Path,
    ResourceTemplate, Store, ZERO,
};

use super::{IntoBytes, Raw, bytes};
use crate::devices::hotplug::{PIN, PORT, PORTS};
use crate::devices::power;
use crate::pci::root::SLOTS;

/// Notifications (ACPI 6.5, table 5.184): look whether the device is there; eject it.
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// Of a power button (ACPI 6.5, table 5.187): it was pressed.
const PRESSED: u8 = 0x80;
const BUTTON: &str = "PBTN";

const COME: &str = "PCIU";
const WANTED: &str = "PCID";
const EJECT: &str = "B0EJ";
/// Looks at the registers.
const LOOK: &str = "PCNT";

/// What lies within the host bridge's object.
pub fn within_bridge() -> Raw {
    let mut body = Vec::new();
    let name = |name: &str| Path::new(name);
    let (port, ports) = (PORT, PORTS);
    OpRegion::new(name("PCST"), OpRegionSpace::SystemIO, &port, &ports).to_aml_bytes(&mut body);
    let word = |name: &str| {
        let mut letters = [0; 4];
        letters.copy_from_slice(name.as_bytes());
        FieldEntry::Named(letters, 32)
    };
    Field::new(
        name("PCST"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![word(COME), word(WANTED), word(EJECT)],
    )
    .to_aml_bytes(&mut body);
    for slot in 1..SLOTS {
        let (address, number, bit) = ((slot as u32) << 16, slot as u32, 1u32 << slot);
        Device::new(
            slot_name(slot),
            vec![
                &Name::new("_ADR".into(), &address),
                &Name::new("_SUN".into(), &number),
                &Method::new("_EJ0".into(), 1, true, vec![&Store::new(&name(EJECT), &bit)]),
            ],
        )
        .to_aml_bytes(&mut body);
    }
    let looks = [(Local(0), COME, DEVICE_CHECK), (Local(1), WANTED, EJECT_REQUEST)];
    // Reading clears the registers, so each is read once.
    let mut steps: Vec<Raw> = looks
        .iter()
        .map(|(local, register, _)| Raw(bytes(&Store::new(local, &name(register)))))
        .collect();
    for slot in 1..SLOTS {
        let bit = 1u32 << slot;
        for (local, _, notification) in &looks {
            let name = slot_name(slot);
            let told = Notify::new(&name, notification);
            steps.push(Raw(bytes(&If::new(&And::new(&ZERO, local, &bit), vec![&told]))));
        }
    }
    let steps = steps.iter().map(|step| step as &dyn Aml).collect();
    Method::new(name(LOOK), 0, true, steps).to_aml_bytes(&mut body);
    Raw(body)
}

fn slot_name(slot: usize) -> Path {
    Path::new(&format!("S{slot:03}"))
}

/// The power button, as a device of its own.
pub fn power_button() -> Raw {
    Raw(bytes(&Device::new(
        "PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )))
}

/// The generic event device. It is told which interrupt came; there is but one.
pub fn event_device() -> Raw {
    let (port, ports) = (power::PORT + power::BUTTON, 1u8);
    let button = OpRegion::new(Path::new("PBST"), OpRegionSpace::SystemIO, &port, &ports);
    let field = Field::new(
        Path::new("PBST"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"PBTN", 8)],
    );
    // Reading clears it.
    let read = Raw(bytes(&Store::new(&Local(1), &Path::new(BUTTON))));
    let interrupt = Interrupt::new(true, true, false, false, PIN);
    let resources = Raw(ResourceTemplate::new(vec![&interrupt]).into_bytes());
    let look = MethodCall::new(Path::new(&format!("\\_SB_.PCI0.{LOOK}")), vec![]);
    let noted = Store::new(&Local(0), &Arg(0));
    let power = Path::new("\\_SB_.PWRB");
    let pressed = Notify::new(&power, &PRESSED);
    let told = Raw(bytes(&If::new(&And::new(&ZERO, &Local(1), &ONE), vec![&pressed])));
    Raw(bytes(&Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
            &button,
            &field,
            &Method::new("_EVT".into(), 1, true, vec![&noted, &look, &read, &told]),
        ],
    )))
}
