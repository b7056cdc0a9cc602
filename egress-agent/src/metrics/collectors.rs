//! From the table of metrics to collectors in a registry.
//!
//! What a metric is asked to be must be its kind; a test of [`super::text`] holds that what is
//! served is what the table says.

use prometheus::core::Collector;
use prometheus::{
    Error, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::catalogue::{Kind, Metric};

impl Metric {
    pub(super) fn counter(&self, registry: &Registry) -> Result<IntCounter, Error> {
        registered(registry, IntCounter::with_opts(self.opts())?)
    }

    /// `flags` are those of `run` that labels ask for.
    pub(super) fn counters(
        &self,
        registry: &Registry,
        flags: &[&str],
    ) -> Result<IntCounterVec, Error> {
        registered(
            registry,
            IntCounterVec::new(self.opts(), &self.label_names(flags))?,
        )
    }

    pub(super) fn gauge(&self, registry: &Registry) -> Result<IntGauge, Error> {
        registered(registry, IntGauge::with_opts(self.opts())?)
    }

    pub(super) fn gauges(&self, registry: &Registry) -> Result<IntGaugeVec, Error> {
        registered(
            registry,
            IntGaugeVec::new(self.opts(), &self.label_names(&[]))?,
        )
    }

    pub(super) fn float_gauges(&self, registry: &Registry) -> Result<GaugeVec, Error> {
        registered(
            registry,
            GaugeVec::new(self.opts(), &self.label_names(&[]))?,
        )
    }

    pub(super) fn histogram(&self, registry: &Registry) -> Result<Histogram, Error> {
        registered(registry, Histogram::with_opts(self.histogram_opts())?)
    }

    pub(super) fn histograms(&self, registry: &Registry) -> Result<HistogramVec, Error> {
        registered(
            registry,
            HistogramVec::new(self.histogram_opts(), &self.label_names(&[]))?,
        )
    }

    /// The labels that are always there, and those of these flags.
    pub(super) fn label_names(&self, flags: &[&str]) -> Vec<&'static str> {
        let labels = self.labels.iter();
        let labels = labels.filter(|label| label.flag.is_none_or(|flag| flags.contains(&flag)));
        labels.map(|label| label.name).collect()
    }

    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn histogram_opts(&self) -> HistogramOpts {
        let buckets = match self.kind {
            Kind::Histogram(buckets) => buckets.to_vec(),
            Kind::Counter | Kind::Gauge => Vec::new(),
        };
        HistogramOpts::new(self.name, self.help).buckets(buckets)
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
