package dev.pocketvlm.sample

import android.app.Application

/** Has the model, which outlives the activity: turning the phone neither stops an answer nor loads the model again. */
public class SampleApplication : Application() {
    internal lateinit var holder: ModelHolder
        private set

    override fun onCreate() {
        super.onCreate()
        holder = ModelHolder(this)
    }
}
