//! Families about tenants: whose model is whose, and what each has and may have. None where no tenant is configured.

use super::{Metric, Scrape};
use crate::exposition::{Exposition, Kind, Number};
use turnout_protocol::control::TenantStatus;

pub const METRICS: &[Metric] = &[
    Metric {
        name: "turnout_tenant_model_info",
        kind: Kind::Gauge,
        help: "Whose a model is; always 1. Joins the other families by `model`.",
        samples: |scrape, out| {
            for model in &scrape.status.models {
                if let Some(tenant) = &model.tenant {
                    out.sample(&[("tenant", tenant.as_str()), ("model", model.model.as_str())], 1);
                }
            }
        },
    },
    Metric {
        name: "turnout_tenant_cells",
        kind: Kind::Gauge,
        help: "Cells that the tenant has.",
        samples: |scrape, out| each(scrape, out, |tenant| Some(tenant.cells.into())),
    },
    Metric {
        name: "turnout_tenant_cells_limit",
        kind: Kind::Gauge,
        help: "Most cells that it may have; absent without a limit.",
        samples: |scrape, out| each(scrape, out, |tenant| tenant.cells_limit.map(u64::from)),
    },
    Metric {
        name: "turnout_tenant_store_bytes",
        kind: Kind::Gauge,
        help: "Bytes of its versions in the store, by their manifests.",
        samples: |scrape, out| each(scrape, out, |tenant| Some(tenant.store_bytes)),
    },
    Metric {
        name: "turnout_tenant_store_limit_bytes",
        kind: Kind::Gauge,
        help: "Most bytes that it may have there; absent without a limit.",
        samples: |scrape, out| each(scrape, out, |tenant| tenant.store_limit_bytes),
    },
    Metric {
        name: "turnout_tenant_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory that its cells use; absent without the controller `memory`.",
        samples: |scrape, out| each(scrape, out, |tenant| tenant.memory_bytes),
    },
    Metric {
        name: "turnout_tenant_memory_limit_bytes",
        kind: Kind::Gauge,
        help: "Most memory of all its cells; absent without a limit.",
        samples: |scrape, out| each(scrape, out, |tenant| tenant.memory_limit_bytes),
    },
    Metric {
        name: "turnout_tenant_cpus_limit",
        kind: Kind::Gauge,
        help: "Most CPU time of all its cells, CPUs; absent without a limit.",
        samples: |scrape, out| {
            for tenant in scrape.daemon.config.tenants.iter() {
                if let Some(limit) = tenant.cpu_limit {
                    out.sample(
                        &[("tenant", tenant.name.as_str())],
                        Number::thousandths(limit.thousandths().into()),
                    );
                }
            }
        },
    },
];

fn each(scrape: &Scrape<'_>, out: &mut Exposition, of: fn(&TenantStatus) -> Option<u64>) {
    for tenant in &scrape.status.tenants {
        if let Some(value) = of(tenant) {
            out.sample(&[("tenant", tenant.tenant.as_str())], value);
        }
    }
}
