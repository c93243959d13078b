package androidx.test.runner.intent

import android.app.Instrumentation
import android.content.Intent

public interface IntentMonitor

public class IntentMonitorRegistry private constructor() {
    public companion object {
        @JvmStatic
        public fun registerInstance(@Suppress("UNUSED_PARAMETER") monitor: IntentMonitor?) {
        }
    }
}

public interface IntentStubber {
    public fun getActivityResultForIntent(intent: Intent): Instrumentation.ActivityResult?
}

/** No intent is answered in place of an activity. */
public class IntentStubberRegistry private constructor() {
    public companion object {
        @JvmStatic
        public fun isLoaded(): Boolean = false

        @JvmStatic
        public fun getInstance(): IntentStubber = error("no stubber is loaded")
    }
}
