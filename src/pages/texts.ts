/**
 * Every sentence that a person reads on our pages, in one place. A translation is a second object of
 * type `Texts`. Placeholders are functions, because languages order their words differently.
 */
export const texts = {
  /** BCP 47 tag, for the `lang` attribute. */
  lang: 'en',
  titleOf: (page: string, brand: string) => `${page} – ${brand}`,
  errorTitle: (page: string) => `Error: ${page}`,
  opensInNewTab: '(opens in a new tab)',
  backTo: (clientName: string) => `Back to ${clientName}`,
  back: 'Go back',
  account: 'Account',
  signedInAs: 'Signed in as',
  unavailable: 'This service cannot answer at the moment. Nothing is lost: try again in a few seconds.',

  login: {
    title: (clientName: string) => `Sign in to ${clientName}`,
    heading: 'Sign in',
    continueTo: 'to continue to',
    userName: 'Name',
    password: 'Password',
    submit: 'Sign in',
    cancel: 'Cancel',
    others: 'Or sign in another way',
    windows: 'Sign in with Windows',
    /** Why somebody is not signed in by Windows. */
    windowsProblems: {
      failed: {
        heading: 'Windows did not sign you in',
        message: 'Sign in with your name and password. The reason has been logged, for your administrator.',
      },
      'no-account': {
        heading: 'There is no account for you here',
        message:
          'Windows has told who you are, but what you are there may not be used here. Ask the administrator, or sign in with another name and password.',
      },
      'not-checked': {
        heading: 'You are not signed in',
        message:
          'Your account could not be checked: the directory of your organisation does not answer. Try again in a few minutes. Accounts of this server itself can sign in.',
      },
    },
    errorHeading: 'You are not signed in',
    errors: {
      credentials: 'The name or the password is wrong. Check both and try again.',
      'form-expired': 'This form was open for too long or came from another window. Please try again.',
      unavailable:
        'Your password could not be checked: the directory of your organisation does not answer. Try again in a few minutes. Accounts of this server itself can sign in.',
      busy: 'There were too many attempts just now. Wait a minute, then try again.',
    },
  },

  providers: {
    title: (clientName: string) => `Choose how to sign in to ${clientName}`,
    heading: 'How do you want to sign in?',
    use: (caption: string) => `Continue with ${caption}`,
    retry: (caption: string) => `Try again with ${caption}`,
    name: 'Your name or e-mail address',
    next: 'Continue',
    /** Why somebody is not signed in after a way through an identity provider. */
    problems: {
      unavailable: {
        heading: (caption: string) => `${caption} is not available`,
        message: 'It does not answer at the moment. Try again in a few minutes, or sign in another way.',
      },
      cancelled: {
        heading: () => 'You are not signed in',
        message: 'The sign-in was cancelled there. You can try again.',
      },
      invalid: {
        heading: (caption: string) => `The answer of ${caption} cannot be used`,
        message: 'It could not be verified. It has been logged. You can try again.',
      },
      'no-account': {
        heading: () => 'There is no account for you here',
        message:
          'You have signed in, but what you signed in as may not be used here. Ask the administrator, or sign in as somebody else.',
      },
      'not-checked': {
        heading: () => 'You are not signed in',
        message:
          'Your account could not be checked: the directory of your organisation does not answer. Try again in a few minutes.',
      },
      'no-mfa': {
        heading: () => 'One more factor is needed',
        message:
          'This application asks for a sign-in with more than one factor, such as a password and a code from your phone, and yours had one.',
      },
    },
    unknownDomain: 'No way to sign in is known for this name. Check it, or choose another way.',
  },

  changePassword: {
    title: 'Choose a new password',
    heading: 'Choose a new password',
    lead: (clientName: string) => `Your password has to be changed before you continue to ${clientName}.`,
    currentPassword: 'Present password',
    newPassword: 'New password',
    repeatPassword: 'New password again',
    submit: 'Save and continue',
    cancel: 'Cancel',
    errorHeading: 'The password was not changed',
  },

  consent: {
    title: (clientName: string) => `Allow access for ${clientName}`,
    heading: 'Allow access?',
    askedBy: 'for',
    switchAccount: 'Not you?',
    scopes: 'The application would like to use',
    about: 'About this application:',
    required: 'Required',
    important: 'Important',
    offline: 'Access while you are away',
    offlineDescription: 'The application can go on working for you when you are not signed in.',
    remember: 'Remember this decision',
    rememberDescription: 'You will not be asked again for the same access.',
    allow: 'Allow',
    deny: 'Deny',
  },

  error: {
    title: 'Something went wrong',
    details: 'For your support team',
    code: 'Code',
    requestId: 'Request',
  },

  signOut: {
    title: 'Sign out',
    heading: 'Do you want to sign out?',
    askedBy: (clientName: string) => `${clientName} asks you to sign out.`,
    lead: 'Other applications that you use may ask you to sign in again.',
    yes: 'Yes, sign out',
    no: 'No, stay signed in',
  },

  answer: {
    title: 'Signed in',
    heading: 'You are signed in',
    lead: (partyName: string) => `You are being taken back to ${partyName}.`,
    next: 'Continue',
  },

  signingOut: {
    title: 'Signing out',
    heading: 'You are being signed out',
    lead: 'The applications that you have used are told. This takes a moment.',
    next: 'Continue',
    frame: 'Ends the session of an application',
  },

  signedOut: {
    title: 'Signed out',
    heading: 'You are signed out',
    lead: 'On a shared computer, close the browser window as well.',
  },

  staySignedIn: {
    title: 'Still signed in',
    heading: 'You are still signed in',
    lead: 'Nothing has changed.',
  },

  noProvider: {
    title: 'Sign-in is not available',
    heading: 'Sign-in is not available',
    lead: (clientName: string) =>
      `${clientName} signs its users in at an identity provider, and the one that it asks for cannot be used here.`,
    advice: 'Nothing is wrong with your account. The administrator of this server can change it.',
  },

  interactionExpired: {
    title: 'Sign-in has ended',
    heading: 'This sign-in has ended',
    lead: 'It took too long, or it was already finished in another tab or window.',
    advice: 'Nothing is lost. Start again from the application that you came from.',
    adviceWithLink: 'Nothing is lost. Go back to the application and start again.',
  },

  home: {
    title: 'OpenID Connect provider',
    heading: 'The server is running',
    lead: 'Applications send you here when you sign in. On this page itself there is nothing to do.',
    issuer: 'Issuer',
    discovery: 'Discovery document',
    developmentHeading: 'Development configuration',
    development: 'Demo clients and accounts may be active. Do not use this server for real data.',
  },
} as const;

/** The shape of a dictionary: the same keys, any wording. */
export type Texts = Translated<typeof texts>;

type Translated<T> = {
  [K in keyof T]: T[K] extends string
    ? string
    : T[K] extends (...words: infer Words) => string
      ? (...words: Words) => string
      : Translated<T[K]>;
};
