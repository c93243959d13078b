package dev.pocketvlm.sample

import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.speech.RecognitionListener
import android.speech.RecognizerIntent
import android.speech.SpeechRecognizer

/**
 * Turns what is spoken into text, on the phone where it can.
 *
 * @param heard the text so far, again and again while somebody speaks
 * @param changed whether it listens now
 */
internal class Dictation(
    private val context: Context,
    private val heard: (String) -> Unit,
    private val changed: (Boolean) -> Unit,
    private val report: (Problem) -> Unit,
) : RecognitionListener {
    private var recognizer: SpeechRecognizer? = null

    val isListening: Boolean get() = recognizer != null

    /** Whether the phone can do that at all. */
    val isThere: Boolean get() = SpeechRecognizer.isRecognitionAvailable(context)

    /** It must be there, and the right to use the microphone. */
    fun start() {
        val intent = Intent(RecognizerIntent.ACTION_RECOGNIZE_SPEECH)
            .putExtra(RecognizerIntent.EXTRA_LANGUAGE_MODEL, RecognizerIntent.LANGUAGE_MODEL_FREE_FORM)
            .putExtra(RecognizerIntent.EXTRA_PARTIAL_RESULTS, true)
            .putExtra(RecognizerIntent.EXTRA_PREFER_OFFLINE, true)
        recognizer = SpeechRecognizer.createSpeechRecognizer(context).also {
            it.setRecognitionListener(this)
            it.startListening(intent)
        }
        changed(true)
    }

    fun stop() {
        recognizer?.destroy()
        recognizer = null
        changed(false)
    }

    override fun onPartialResults(partialResults: Bundle?) = hear(partialResults)

    override fun onResults(results: Bundle?) {
        hear(results)
        stop()
    }

    override fun onError(error: Int) {
        val text = when (error) {
            SpeechRecognizer.ERROR_INSUFFICIENT_PERMISSIONS -> R.string.problem_microphone
            else -> R.string.problem_not_heard
        }
        stop()
        report(context.problem(text))
    }

    private fun hear(results: Bundle?) {
        results?.getStringArrayList(SpeechRecognizer.RESULTS_RECOGNITION)?.firstOrNull()?.let(heard)
    }

    override fun onReadyForSpeech(params: Bundle?) = Unit

    override fun onBeginningOfSpeech() = Unit

    override fun onRmsChanged(rmsdB: Float) = Unit

    override fun onBufferReceived(buffer: ByteArray?) = Unit

    override fun onEndOfSpeech() = Unit

    override fun onEvent(eventType: Int, params: Bundle?) = Unit
}
