//! [`Metrics`]: the metrics of the gates of one process, as one page or through the `metrics` facade.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};

use super::inbound::Tollgate;
use super::outbound::UpstreamGate;
#[cfg(feature = "metrics")]
use crate::base::metrics::facade::FacadePublisher;
use crate::base::metrics::samples::Samples;
use crate::base::metrics::text::{TextFormat, TextPage};

/// Metrics of a [`Tollgate`], of any number of [`UpstreamGate`]s, or of both. The guide [`metrics`](crate::docs::metrics) lists
/// them.
///
/// ```
/// use axum::{Router, http::HeaderMap, routing::get};
/// use tollgate::{Metrics, Tollgate};
///
/// let gate = Tollgate::builder().build()?;
/// let market = Tollgate::upstream("market").build()?;
/// let metrics = Metrics::of(&gate).upstream(&market);
/// let scrape = get(async move |headers: HeaderMap| metrics.respond(&headers));
/// let app: Router = Router::new().route("/metrics", scrape).layer(gate.layer());
/// # let _ = app;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Metrics {
    gate: Option<Tollgate>,
    upstreams: Vec<UpstreamGate>,
}

impl Metrics {
    /// Creates the metrics of a gate of incoming requests. A process without one begins with [`Metrics::default`].
    ///
    /// ```
    /// use tollgate::limit::Limit;
    /// use tollgate::{Metrics, Tollgate};
    ///
    /// let metrics = Metrics::of(&Tollgate::builder().limit(Limit::per_ip("100/min")).build()?);
    /// assert!(metrics.prometheus().contains("tollgate_limit_decisions_total{outcome=\"admitted\"} 0"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn of(gate: &Tollgate) -> Self {
        Self { gate: Some(gate.clone()), upstreams: Vec::new() }
    }

    /// Adds those of a gate of an upstream, whose name is their label `upstream`: each gate needs a name of its own.
    ///
    /// ```
    /// use tollgate::{Metrics, Tollgate};
    ///
    /// let metrics = Metrics::default().upstream(&Tollgate::upstream("market").build()?);
    /// assert!(metrics.prometheus().contains("tollgate_upstream_waits_total{upstream=\"market\"} 0"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn upstream(mut self, gate: &UpstreamGate) -> Self {
        self.upstreams.push(gate.clone());
        self
    }

    /// Responds to a scrape: OpenMetrics 1.0 if the client accepts it (`Accept: application/openmetrics-text`), else
    /// Prometheus text format 0.0.4.
    ///
    /// ```
    /// use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
    /// use tollgate::{Metrics, Tollgate};
    ///
    /// let metrics = Metrics::of(&Tollgate::builder().build()?);
    /// let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/openmetrics-text"))]);
    /// let response = metrics.respond(&headers);
    /// assert!(response.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
    /// assert!(response.body().ends_with("# EOF\n"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn respond(&self, headers: &HeaderMap) -> Response<String> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = TextFormat::accepted(accept);
        let mut response = Response::new(self.page(format));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response
    }

    /// Renders Prometheus text format 0.0.4.
    ///
    /// ```
    /// use tollgate::{Metrics, Tollgate};
    ///
    /// let text = Metrics::of(&Tollgate::builder().build()?).prometheus();
    /// assert!(text.starts_with("# HELP"));
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        self.page(TextFormat::Prometheus)
    }

    /// Hands counters and gauges to the exporter that the application has installed for the `metrics` facade; histograms
    /// reach it as they are measured. Call it regularly, such as before each scrape of that exporter.
    ///
    /// A counter is published by its absolute value, a total of seconds as a gauge, since the facade's counters are whole
    /// numbers.
    ///
    /// ```
    /// use tollgate::{Metrics, Tollgate};
    ///
    /// let metrics = Metrics::of(&Tollgate::builder().build()?);
    /// metrics.publish();
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn publish(&self) {
        FacadePublisher::describe();
        self.fill(&mut FacadePublisher);
    }

    fn page(&self, format: TextFormat) -> String {
        let mut page = TextPage::new(format);
        self.fill(&mut page);
        page.finish()
    }

    fn fill(&self, out: &mut dyn Samples) {
        self.gate.iter().for_each(|gate| gate.fill_metrics(out));
        self.upstreams.iter().for_each(|gate| gate.fill_metrics(out));
    }
}
