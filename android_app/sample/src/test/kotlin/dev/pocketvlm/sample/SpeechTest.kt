package dev.pocketvlm.sample

import android.Manifest
import android.content.ComponentName
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.os.Bundle
import android.provider.Settings
import android.speech.RecognitionService
import android.speech.SpeechRecognizer
import android.speech.tts.TextToSpeech
import android.view.View
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowSpeechRecognizer
import org.robolectric.shadows.ShadowTextToSpeech
import java.util.Locale

@RunWith(RobolectricTestRunner::class)
class SpeechTest {
    private val phone = Phone()

    @Test
    fun `a spoken question is typed, and the answer read aloud sentence by sentence`() {
        ShadowTextToSpeech.addLanguageAvailability(Locale.US)
        push()
        phone.start().waitForModel()
        phone.menu(R.id.read_aloud)
        phone.choosePicture()

        phone.touch(R.id.speak)
        assertEquals(phone.activity.getString(R.string.problem_no_speech), phone.text(R.id.notice_text))
        phone.touch(R.id.notice_close)
        recognizerIsThere()
        phone.touch(R.id.speak)
        val asked = shadowOf(phone.activity).lastRequestedPermission
        assertEquals(listOf(Manifest.permission.RECORD_AUDIO), asked.requestedPermissions.toList())
        grantMicrophone(asked.requestCode)
        waitFor("it listens") { phone.view<View>(R.id.speak).isActivated }
        val recognizer = shadowOf(ShadowSpeechRecognizer.getLatestSpeechRecognizer())
        waitFor("the recognizer is asked") { recognizer.lastRecognizerIntent != null }
        recognizer.triggerOnPartialResults(words(QUESTION.take(4)))
        idle()
        assertEquals(QUESTION.take(4), phone.text(R.id.question))
        recognizer.triggerOnResults(words(QUESTION))
        idle()
        assertEquals(QUESTION, phone.text(R.id.question))
        assertFalse(phone.view<View>(R.id.speak).isActivated)

        phone.touch(R.id.ask)
        phone.waitForAnswer()
        val voice = shadowOf(ShadowTextToSpeech.getLastTextToSpeechInstance())
        voice.onInitListener.onInit(TextToSpeech.SUCCESS)
        idle()
        assertEquals(ANSWER, voice.spokenTextList.joinToString(" "))
    }

    @Test
    fun `without the right, or without a word, it says what to do`() {
        push()
        phone.start().waitForModel()
        recognizerIsThere()
        phone.touch(R.id.speak)
        val asked = shadowOf(phone.activity).lastRequestedPermission
        phone.activity.onRequestPermissionsResult(asked.requestCode, asked.requestedPermissions, intArrayOf(PackageManager.PERMISSION_DENIED))
        idle()
        assertEquals(phone.activity.getString(R.string.problem_microphone), phone.text(R.id.notice_text))
        grantMicrophone(asked.requestCode)
        val recognizer = shadowOf(ShadowSpeechRecognizer.getLatestSpeechRecognizer())
        waitFor("the recognizer is asked") { recognizer.lastRecognizerIntent != null }
        recognizer.triggerOnError(SpeechRecognizer.ERROR_NO_MATCH)
        idle()
        assertEquals(phone.activity.getString(R.string.problem_not_heard), phone.text(R.id.notice_text))
        assertTrue(phone.view<View>(R.id.speak).isShown)
    }

    private fun grantMicrophone(request: Int) {
        shadowOf(phone.application).grantPermissions(Manifest.permission.RECORD_AUDIO)
        phone.activity.onRequestPermissionsResult(
            request, arrayOf(Manifest.permission.RECORD_AUDIO), intArrayOf(PackageManager.PERMISSION_GRANTED),
        )
        idle()
    }

    private fun recognizerIsThere() {
        val service = ComponentName("speech", "speech.Service")
        val packages = shadowOf(phone.application.packageManager)
        packages.addServiceIfNotPresent(service)
        packages.addIntentFilterForService(service, IntentFilter(RecognitionService.SERVICE_INTERFACE))
        Settings.Secure.putString(
            phone.application.contentResolver, "voice_recognition_service", "speech/speech.Service",
        )
    }

    private fun words(text: String) =
        Bundle().apply { putStringArrayList(SpeechRecognizer.RESULTS_RECOGNITION, arrayListOf(text)) }
}
