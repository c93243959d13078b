package dev.pocketvlm.sample

import android.content.Context
import android.speech.tts.TextToSpeech

/** Reads sentences aloud, one after the other, where the user wants it. The engine is asked for when it is first needed. */
internal class ReadAloud(private val context: Context, private val report: (Problem) -> Unit) {
    private val preferences = context.getSharedPreferences("speech", Context.MODE_PRIVATE)
    private val waiting = ArrayList<String>()
    private var engine: TextToSpeech? = null
    private var isReady = false

    var isOn: Boolean
        get() = preferences.getBoolean("aloud", false)
        set(value) {
            preferences.edit().putBoolean("aloud", value).apply()
            if (!value) stop()
        }

    fun say(sentence: String) {
        if (!isOn) return
        if (engine == null) engine = TextToSpeech(context) { status -> started(status) }
        if (isReady) speak(sentence) else waiting.add(sentence)
    }

    fun stop() {
        waiting.clear()
        if (isReady) engine?.stop()
    }

    private fun started(status: Int) {
        val locale = context.resources.configuration.locales[0]
        val speaks = status == TextToSpeech.SUCCESS && (engine?.setLanguage(locale) ?: -1) >= TextToSpeech.LANG_AVAILABLE
        if (!speaks) {
            engine?.shutdown()
            engine = null
            isOn = false
            return report(context.problem(R.string.problem_no_voice))
        }
        isReady = true
        waiting.forEach(::speak)
        waiting.clear()
    }

    private fun speak(sentence: String) {
        engine?.speak(sentence, TextToSpeech.QUEUE_ADD, null, sentence.hashCode().toString())
    }
}
