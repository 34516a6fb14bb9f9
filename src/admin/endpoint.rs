//! [`Endpoint`]: what a path means. The last part decides, so that the service works under any prefix, stripped or kept.

use http::Method;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Page,
    Style,
    Script,
    Icon,
    Events,
    Panels,
    Stats,
    Health,
    Degradation,
    Report,
    Overrides,
    Audit,
    Fleet,
    Live,
    Ready,
    Explain,
    Subject,
    Purge,
    Override,
    EndOverride,
    ResetSubject,
    GrantSubject,
}

const ENDPOINTS: [(&str, Endpoint); 22] = [
    ("", Endpoint::Page),
    ("dashboard.css", Endpoint::Style),
    ("dashboard.js", Endpoint::Script),
    ("icon.svg", Endpoint::Icon),
    ("events", Endpoint::Events),
    ("panels.json", Endpoint::Panels),
    ("stats.json", Endpoint::Stats),
    ("health.json", Endpoint::Health),
    ("degradation.json", Endpoint::Degradation),
    ("report.txt", Endpoint::Report),
    ("overrides.json", Endpoint::Overrides),
    ("audit.json", Endpoint::Audit),
    ("fleet.json", Endpoint::Fleet),
    ("live", Endpoint::Live),
    ("ready", Endpoint::Ready),
    ("explain.json", Endpoint::Explain),
    ("subject.json", Endpoint::Subject),
    ("purge", Endpoint::Purge),
    ("override", Endpoint::Override),
    ("end-override", Endpoint::EndOverride),
    ("reset-subject", Endpoint::ResetSubject),
    ("grant-subject", Endpoint::GrantSubject),
];

impl Endpoint {
    pub(super) fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        ENDPOINTS.iter().find(|(known, _)| *known == name).map(|(_, endpoint)| *endpoint)
    }

    /// Whether it changes something: such requests are POSTs.
    pub(super) const fn is_action(self) -> bool {
        matches!(self, Self::Purge | Self::Override | Self::EndOverride | Self::ResetSubject | Self::GrantSubject)
    }

    /// Whether load balancers ask for it, without credentials. It says nothing else.
    pub(super) const fn is_probe(self) -> bool {
        matches!(self, Self::Live | Self::Ready)
    }

    pub(super) fn allows(self, method: &Method) -> bool {
        match self.is_action() {
            true => method == Method::POST,
            false => method == Method::GET || method == Method::HEAD,
        }
    }
}
