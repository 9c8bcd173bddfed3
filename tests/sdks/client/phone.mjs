// What the SDK for React Native asks of a phone, for a page that stands in for one.

export const AppState = { currentState: 'active', addEventListener() {} };
export const NativeModules = {};
export const Platform = { OS: 'android', select: ({ android }) => android, constants: {} };
