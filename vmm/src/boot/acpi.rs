//! The ACPI tables: hardware-reduced (ACPI 6.5, 3.11.1), so that the guest needs no PIC, PIT, CMOS
//! clock, SMI or power-management timer, none of which exist here.

mod hotplug;
mod numa;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::put;
use crate::devices::{power, serial};
use crate::error::{Error, Result};
use crate::machine::interrupts::pin_of_slot;
use crate::machine::layout::{
    ACPI_TABLES, ECAM_BASE, ECAM_SIZE, IO_APIC, LOCAL_APIC, Layout, WINDOW_32, WINDOW_IO,
};
use crate::machine::memory::GuestMemory;
use crate::pci::root::SLOTS;
use crate::spec::MemoryNode;

const OEM: [u8; 6] = *b"ASSIGN";
const TABLE: [u8; 8] = *b"ASSIGNVM";
const REVISION: u32 = 1;
/// The RSDP fills the first bytes of the area; tables follow at this alignment.
const ALIGNMENT: u64 = 64;

/// FADT "IA-PC boot architecture" bits (ACPI 6.5, 5.2.9.3): no VGA, no CMOS clock.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Writes all tables; the RSDP is at the start of [`ACPI_TABLES`]. vCPUs are told by their APICs' ids,
/// in the order of their numbers, and the guest's NUMA `nodes` where it has some.
///
/// # Errors
/// [`Error::Boot`] where they outgrow their area.
pub fn write(
    memory: &GuestMemory,
    layout: &Layout,
    apic_ids: &[u8],
    nodes: &[MemoryNode],
) -> Result<()> {
    let mut area = Area { memory, next: ACPI_TABLES.start + ALIGNMENT };
    let dsdt = area.add(&dsdt(layout))?;
    let fadt = area.add(&fadt(dsdt))?;
    let madt = area.add(&madt(apic_ids))?;
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(ECAM_BASE, 0, 0, 0);
    let mcfg = area.add(&mcfg)?;
    let mut tables = vec![fadt, madt, mcfg];
    if !nodes.is_empty() {
        tables.push(area.add(&numa::affinities(layout, apic_ids, nodes))?);
    }
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    for table in tables {
        xsdt.add_entry(table);
    }
    let xsdt = area.add(&xsdt)?;
    put(memory, ACPI_TABLES.start, &bytes(&Rsdp::new(OEM, xsdt)))
}

struct Area<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Area<'_> {
    fn add(&mut self, table: &dyn Aml) -> Result<u64> {
        let (address, bytes) = (self.next, bytes(table));
        self.next = (address + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        if self.next > ACPI_TABLES.end {
            return Err(Error::Boot("the ACPI tables outgrow their area".into()));
        }
        put(self.memory, address, &bytes)?;
        Ok(address)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |offset: u16| {
        GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(power::PORT + offset))
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(apic_ids: &[u8]) -> MADT {
    let controller = LocalInterruptController::Address(LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, TABLE, REVISION, controller);
    for (number, id) in (0..).zip(apic_ids) {
        madt.add_structure(ProcessorLocalApic::new(number, *id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC as u32, 0));
    madt
}

/// A raw piece of AML, already serialized.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt(layout: &Layout) -> Raw {
    let mut body = Vec::new();
    scope(layout).to_aml_bytes(&mut body);
    let s5 = power::SLEEP_TYPE_S5;
    Name::new("_S5_".into(), &Package::new(vec![&s5, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    dsdt.append_slice(&body);
    Raw(dsdt.as_slice().to_vec())
}

/// `\_SB_` with the PCI host bridge, the range its configuration space takes, and the console.
fn scope(layout: &Layout) -> Raw {
    let high = layout.window_64.clone();
    let ports = (WINDOW_IO.start as u16, (WINDOW_IO.end - 1) as u16);
    let windows = ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0u16, 0u16),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            WINDOW_32.start as u32,
            (WINDOW_32.end - 1) as u32,
            None,
        ),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            high.start,
            high.end - 1,
            None,
        ),
        &AddressSpace::new_io(ports.0, ports.1, None),
    ])
    .into_bytes();
    let mut body = Vec::new();
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CCA".into(), &1u8),
            &Name::new("_CRS".into(), &Raw(windows)),
            &Name::new("_PRT".into(), &interrupt_routes()),
            &hotplug::within_bridge(),
        ],
    )
    .to_aml_bytes(&mut body);
    let ecam = Memory32Fixed::new(true, ECAM_BASE as u32, ECAM_SIZE as u32);
    Device::new(
        "ECAM".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam])),
        ],
    )
    .to_aml_bytes(&mut body);
    hotplug::power_button().to_aml_bytes(&mut body);
    hotplug::event_device().to_aml_bytes(&mut body);
    let ports = IO::new(serial::PORT, serial::PORT, 0, serial::PORTS as u8);
    let interrupt = Interrupt::new(true, true, false, false, serial::PIN);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt, &ports])),
        ],
    )
    .to_aml_bytes(&mut body);
    Raw(Scope::raw(Path::new("_SB_"), body))
}

/// Where the line of each slot's device leads (ACPI 6.5, 6.2.13): all have one function, so only
/// INTA# is used.
fn interrupt_routes() -> Raw {
    let routes: Vec<Raw> = (1..SLOTS)
        .map(|slot| {
            let (device, pin) = ((slot as u32) << 16 | 0xffff, pin_of_slot(slot));
            Raw(bytes(&Package::new(vec![&device, &ZERO, &ZERO, &pin])))
        })
        .collect();
    Raw(bytes(&Package::new(routes.iter().map(|route| route as &dyn Aml).collect())))
}

/// Serializes at once, so that what it borrows may go.
trait IntoBytes {
    fn into_bytes(self) -> Vec<u8>;
}

impl IntoBytes for ResourceTemplate<'_> {
    fn into_bytes(self) -> Vec<u8> {
        bytes(&self)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::machine::memory::allocate;
    use crate::spec::Memory;

    fn read(memory: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn table(memory: &GuestMemory, address: u64) -> Vec<u8> {
        let header = read(memory, address, 8);
        let length = u32::from_le_bytes(header[4..8].try_into().unwrap());
        read(memory, address, length as usize)
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let layout = Layout::new(1 << 30, 40, &[]).unwrap();
        let memory = allocate(&layout, &Memory::bytes(0)).unwrap();
        let ids: Vec<u8> = (0..64).map(|number| number / 3 * 4 + number % 3).collect();
        let node = |mib: u64, vcpus| MemoryNode { bytes: mib << 20, vcpus, host: None };
        let nodes = [node(256, (0..60).collect()), node(768, (60..64).collect())];
        write(&memory, &layout, &ids, &nodes).unwrap();
        let rsdp = read(&memory, ACPI_TABLES.start, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        let xsdt = table(&memory, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        let mut names = vec![];
        for entry in xsdt[36..].chunks(8) {
            let table = table(&memory, u64::from_le_bytes(entry.try_into().unwrap()));
            let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0);
            if &table[..4] == b"APIC" {
                // Its entries begin at byte 44; those of local APICs have type 0 and 8 bytes.
                let local = table[44..].chunks(8).take_while(|entry| entry[..2] == [0, 8]);
                let told: Vec<(u8, u8)> = local.map(|entry| (entry[2], entry[3])).collect();
                assert_eq!(told, (0..).zip(ids.clone()).collect::<Vec<_>>());
            }
            names.push(String::from_utf8_lossy(&table[..4]).into_owned());
        }
        assert_eq!(names, ["FACP", "APIC", "MCFG", "SRAT"]);
    }
}
