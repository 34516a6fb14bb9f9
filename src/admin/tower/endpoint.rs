//! [`AdminEndpoint`]: what a path means. The last part decides, so that the service works under any prefix, stripped or kept.

use http::Method;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminEndpoint {
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
    RevokePurge,
    Override,
    EndOverride,
    ResetSubject,
    GrantSubject,
    CorrectCredits,
    Jobs,
    RunJob,
    EnableJob,
    DisableJob,
}

const ENDPOINTS: [(&str, AdminEndpoint); 28] = [
    ("", AdminEndpoint::Page),
    ("dashboard.css", AdminEndpoint::Style),
    ("dashboard.js", AdminEndpoint::Script),
    ("icon.svg", AdminEndpoint::Icon),
    ("events", AdminEndpoint::Events),
    ("panels.json", AdminEndpoint::Panels),
    ("stats.json", AdminEndpoint::Stats),
    ("health.json", AdminEndpoint::Health),
    ("degradation.json", AdminEndpoint::Degradation),
    ("report.txt", AdminEndpoint::Report),
    ("overrides.json", AdminEndpoint::Overrides),
    ("audit.json", AdminEndpoint::Audit),
    ("fleet.json", AdminEndpoint::Fleet),
    ("live", AdminEndpoint::Live),
    ("ready", AdminEndpoint::Ready),
    ("explain.json", AdminEndpoint::Explain),
    ("subject.json", AdminEndpoint::Subject),
    ("purge", AdminEndpoint::Purge),
    ("revoke-purge", AdminEndpoint::RevokePurge),
    ("override", AdminEndpoint::Override),
    ("end-override", AdminEndpoint::EndOverride),
    ("reset-subject", AdminEndpoint::ResetSubject),
    ("grant-subject", AdminEndpoint::GrantSubject),
    ("correct-credits", AdminEndpoint::CorrectCredits),
    ("jobs.json", AdminEndpoint::Jobs),
    ("run-job", AdminEndpoint::RunJob),
    ("enable-job", AdminEndpoint::EnableJob),
    ("disable-job", AdminEndpoint::DisableJob),
];

impl AdminEndpoint {
    pub(super) fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        ENDPOINTS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, endpoint)| *endpoint)
            .filter(|endpoint| cfg!(feature = "jobs") || !endpoint.is_of_jobs())
    }

    /// Whether it changes something: such requests are POSTs.
    pub(super) const fn is_action(self) -> bool {
        matches!(
            self,
            Self::Purge
                | Self::RevokePurge
                | Self::Override
                | Self::EndOverride
                | Self::ResetSubject
                | Self::GrantSubject
                | Self::CorrectCredits
                | Self::RunJob
                | Self::EnableJob
                | Self::DisableJob
        )
    }

    /// Whether it needs jobs.
    const fn is_of_jobs(self) -> bool {
        matches!(self, Self::Jobs | Self::RunJob | Self::EnableJob | Self::DisableJob)
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
