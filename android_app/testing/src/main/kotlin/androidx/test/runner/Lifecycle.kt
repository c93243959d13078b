package androidx.test.runner.lifecycle

import android.app.Activity

public enum class Stage { PRE_ON_CREATE, CREATED, STARTED, RESUMED, PAUSED, STOPPED, RESTARTED, DESTROYED }

public enum class ApplicationStage { PRE_ON_CREATE, CREATED }

public fun interface ActivityLifecycleCallback {
    public fun onActivityLifecycleChanged(activity: Activity, stage: Stage)
}

public interface ActivityLifecycleMonitor {
    public fun addLifecycleCallback(callback: ActivityLifecycleCallback)

    public fun removeLifecycleCallback(callback: ActivityLifecycleCallback)

    public fun getLifecycleStageOf(activity: Activity): Stage

    public fun getActivitiesInStage(stage: Stage): Collection<Activity>
}

public class ActivityLifecycleMonitorRegistry private constructor() {
    public companion object {
        private var instance: ActivityLifecycleMonitor? = null

        @JvmStatic
        public fun getInstance(): ActivityLifecycleMonitor = checkNotNull(instance) { "Robolectric has not started" }

        @JvmStatic
        public fun registerInstance(monitor: ActivityLifecycleMonitor?) {
            instance = monitor
        }
    }
}

public interface ApplicationLifecycleMonitor

public class ApplicationLifecycleMonitorRegistry private constructor() {
    public companion object {
        @JvmStatic
        public fun registerInstance(@Suppress("UNUSED_PARAMETER") monitor: ApplicationLifecycleMonitor?) {
        }
    }
}
