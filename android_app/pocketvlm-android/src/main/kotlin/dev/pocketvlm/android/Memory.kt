package dev.pocketvlm.android

import android.app.ActivityManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.Trim

/**
 * What a model gives back at a level of [ComponentCallbacks2.onTrimMemory]. What is answering keeps all that it needs, and
 * what was given back is loaded, or computed, again when it is asked for. From Android 14 on the system sends only
 * `UI_HIDDEN` and `BACKGROUND`.
 *
 * | level | given back | why |
 * | --- | --- | --- |
 * | `RUNNING_MODERATE` | nothing | a user is looking, and others go first |
 * | `RUNNING_LOW` | vision part, encoded pictures | a user is looking: the conversation stays quick |
 * | `RUNNING_CRITICAL`, `onLowMemory` | also KV caches of conversations that are not answering | the system is stopping apps |
 * | `UI_HIDDEN` | vision part | nobody adds a picture now |
 * | `BACKGROUND`, `MODERATE`, `COMPLETE` | all three | the smaller an app is, the later it is stopped |
 *
 * Levels between those count as the one below.
 */
@Suppress("DEPRECATION") // levels that older systems send
public fun trimsFor(level: Int): List<Trim> = when {
    level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND -> ALL
    level >= ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN -> listOf(Trim.VISION)
    level >= ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL -> ALL
    level >= ComponentCallbacks2.TRIM_MEMORY_RUNNING_LOW -> listOf(Trim.VISION, Trim.CACHES)
    else -> emptyList()
}

private val ALL = listOf(Trim.VISION, Trim.CACHES, Trim.IDLE_KV)

/** Until [model] is closed. */
internal fun trimOnPressure(application: Context, model: PocketVlm) {
    val callbacks = PressureCallbacks { trims -> trims.forEach(model::trimMemory) }
    application.registerComponentCallbacks(callbacks)
    model.whenClosed { application.unregisterComponentCallbacks(callbacks) }
}

private class PressureCallbacks(private val trim: (List<Trim>) -> Unit) : ComponentCallbacks2 {
    override fun onTrimMemory(level: Int) = trim(trimsFor(level))

    @Deprecated("Android calls it all the same")
    override fun onLowMemory() = trim(ALL)

    override fun onConfigurationChanged(newConfig: Configuration) = Unit
}

/** Bytes that the system has to give before it starts to stop apps; it says itself where that begins. */
internal fun freeMemory(context: Context): Long {
    val memory = ActivityManager.MemoryInfo()
    (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
    return if (memory.lowMemory) 0 else maxOf(0, memory.availMem - memory.threshold)
}

/** @throws NoMemory [what] needs more bytes than are free */
internal fun checkMemory(what: String, needed: Long, free: Long) {
    if (needed > free) throw NoMemory(what, needed, free)
}
